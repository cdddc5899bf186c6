"""Alcove runs commands that nobody trusts in sessions that are cheap to make and strict enough to leave alone.

The contract's names are here at once; the backend and the sandbox classes are imported when first asked for.
"""

from typing import TYPE_CHECKING

from alcove.contract import (
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    Conflict,
    Duration,
    ExecError,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    Forbidden,
    InvalidRequest,
    JsonError,
    LifecycleError,
    Limited,
    NetworkPolicy,
    NetworkPolicyError,
    RateLimited,
    ResolvedMount,
    ResourceLimits,
    SandboxBackend,
    SandboxCapabilities,
    SandboxError,
    SandboxIoError,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    TaskError,
    Unauthorized,
    Unavailable,
    Unrestricted,
    Unsupported,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from alcove.changes import Applied, Change, Refusal
    from alcove.local import LocalSandbox, LocalSandboxConfig
    from alcove.sandbox import AsyncSandbox, Sandbox

    __version__: str

__all__ = [
    "MEMORY_MOUNT",
    "OUTPUTS_MOUNT",
    "Applied",
    "AsyncSandbox",
    "Change",
    "Conflict",
    "Duration",
    "ExecError",
    "ExecRequest",
    "ExecResult",
    "FilesystemAccess",
    "FilesystemMount",
    "Forbidden",
    "InvalidRequest",
    "JsonError",
    "LifecycleError",
    "Limited",
    "LocalSandbox",
    "LocalSandboxConfig",
    "NetworkPolicy",
    "NetworkPolicyError",
    "RateLimited",
    "Refusal",
    "ResolvedMount",
    "ResourceLimits",
    "Sandbox",
    "SandboxBackend",
    "SandboxCapabilities",
    "SandboxError",
    "SandboxIoError",
    "SandboxSession",
    "SandboxSessionId",
    "SandboxSnapshot",
    "SandboxSpec",
    "SandboxState",
    "SessionNotFound",
    "TaskError",
    "Unauthorized",
    "Unavailable",
    "Unrestricted",
    "Unsupported",
    "from_json",
    "to_json",
]

_LAZY = {
    "Applied": "alcove.changes",
    "Change": "alcove.changes",
    "Refusal": "alcove.changes",
    "LocalSandbox": "alcove.local",
    "LocalSandboxConfig": "alcove.local",
    "Sandbox": "alcove.sandbox",
    "AsyncSandbox": "alcove.sandbox",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("alcove")
    elif name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module `alcove` has no attribute `{name}`")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
