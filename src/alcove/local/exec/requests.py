"""From an `ExecRequest` to what the spawner reads: environment, start directory, shell builtins, user."""

import os
import posixpath
from collections.abc import Mapping
from functools import lru_cache

from alcove.contract import MEMORY_MOUNT, OUTPUTS_MOUNT, ExecRequest, InvalidRequest
from alcove.local.cell.layout import WORKSPACE
from alcove.local.cell.operations import Kind, operation, strings

# POSIX XCU 1.6 and 2.14, and what common shells add: looked for in PATH first
_BUILTINS = frozenset(
    ". : alias bg break cd command continue eval exec exit export fc fg getopts hash jobs kill local read readonly "
    "return set shift test times trap true false type ulimit umask unalias unset wait".split()
)
_THROUGH_SHELL = ("/bin/sh", "-c", '"$0" "$@"')
_ROOT = ("root", "0")


def base_environment(search_path: str) -> dict[str, str]:
    """What every command finds; a request's own variables win."""
    return {
        "PATH": search_path,
        "HOME": WORKSPACE,
        "USER": "root",
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh",
        "HARN_MEMORY_DIR": MEMORY_MOUNT,
        "HARN_OUTPUTS_DIR": OUTPUTS_MOUNT,
        "ALCOVE_MEMORY_DIR": MEMORY_MOUNT,
        "ALCOVE_OUTPUTS_DIR": OUTPUTS_MOUNT,
    }


def working_directory(request: ExecRequest) -> str:
    """An absolute guest path; what is relative means relative to the workspace."""
    return posixpath.join(WORKSPACE, request.cwd) if request.cwd else WORKSPACE


def effective_user(user: str | None, *, ranged: bool) -> str | None:
    """The user to become, or None to stay the session's root.

    Raises:
        InvalidRequest: the session has no range of ids to have another user in.
    """
    if user is None or user in _ROOT:
        return None
    if not ranged:
        raise InvalidRequest(
            f"user `{user}` needs a range of uids, which a session of a plain user has not: run Alcove as root, "
            "or leave the user out"
        )
    if user.isdigit() and int(user) >= 65_536:
        raise InvalidRequest(f"user `{user}` is outside the session's ids 0 to 65535")
    return user


class Environment:
    """The base environment, encoded once: most requests add nothing to it."""

    def __init__(self, base: dict[str, str]) -> None:
        self._base = base
        self._encoded = _encoded(base)

    def encode(self, user: str | None, own: Mapping[str, str]) -> bytes:
        """The operation for a request's environment: its `own` variables win."""
        if not own and not user:
            return self._encoded
        return _encoded({**self._base, **({"USER": user} if user else {}), **own})


def _encoded(variables: Mapping[str, str]) -> bytes:
    return strings(Kind.ENV, [f"{name}={value}" for name, value in variables.items()])


@lru_cache(maxsize=16)
def _directory(cwd: str) -> bytes:
    return operation(Kind.CWD, cwd.encode("utf-8", "surrogateescape"))


def encode(request: ExecRequest, environment: Environment, cwd: str, user: str | None) -> bytes:
    """The request's operations, all but its stdio."""
    parts = [
        strings(Kind.ARGV, (request.command, *request.args)),
        environment.encode(user, request.env),
        _directory(cwd),
    ]
    if request.command in _BUILTINS:
        parts.append(strings(Kind.FALLBACK_ARGV, (*_THROUGH_SHELL, request.command, *request.args)))
    if user:
        parts.append(operation(Kind.USER, user))
    return b"".join(parts)
