"""`alcove fork`: another session that begins with what one has."""

from typing import Any

from msgspec.structs import replace

from alcove.cli import allow
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import with_backend
from alcove.contract import Limited, SandboxSpec, Unrestricted, to_json
from alcove.local import LocalSandboxConfig
from alcove.local.exec.terminal import TerminalSandbox

_FIELDS = {"id": "session_id", "pids": "pids", "open_files": "open_files", "user": "user", "disk": "disk_mb"}
_LIMITS = {"timeout": "wall_time", "cpus": "cpu_count", "memory": "memory_mb", "idle_timeout": "idle_timeout"}
_FLAGS = ("set_id", "best_effort")


def fork(given: Given) -> int:
    """Make a session from another one and print its id."""
    session_id = given.words[0]

    async def work(backend: TerminalSandbox) -> int:
        spec = _overridden(backend.fork_spec(session_id), given, backend.config)
        session = await backend.fork(session_id, spec)
        print(to_json(session).decode() if given["json"] else session.id)
        return 0

    return with_backend(given, work)


def _overridden(spec: SandboxSpec, given: Given, config: LocalSandboxConfig) -> SandboxSpec:
    """What was given takes the place of what the session has."""
    changed: dict[str, Any] = {field: given[key] for key, field in _FIELDS.items() if given[key] is not None}
    changed |= {key: True for key in _FLAGS if given[key]}
    limits = {field: given[key] for key, field in _LIMITS.items() if given[key] is not None}
    if given["label"]:
        changed["labels"] = dict(given["label"])
    if (mounts := _mounts(given)) is not None:
        changed["mounts"] = mounts
    if (policy := _policy(given, config)) is not None:
        changed["network_policy"] = policy
    return replace(spec, limits=replace(spec.limits, **limits), **changed)


def _mounts(given: Given) -> list[Any] | None:
    if given["mount"] and given["no_mounts"]:
        raise Usage("--mount and --no-mounts exclude each other: with --mount the session's own are left out already")
    return given["mount"] if given["mount"] or given["no_mounts"] else None


def _policy(given: Given, config: LocalSandboxConfig) -> Unrestricted | Limited | None:
    changes = given["net"] or allow.asked(given)
    if given["no_net"]:
        if changes:
            raise Usage("--no-net leaves nothing to reach: leave out --net, --allow and --allow-packages")
        return Limited()
    return allow.policy(given, config) if changes else None
