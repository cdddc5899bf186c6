"""What a well-formed value may ask of a backend, and the texts that every backend builds alike."""

import re
from collections.abc import Iterable

from alcove.contract import fields
from alcove.contract.errors import InvalidRequest
from alcove.contract.fields import U32_MAX, WHITE_SPACE, shown
from alcove.contract.types import (
    HOST_ROOTFS,
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    Duration,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    Limited,
    ResourceLimits,
    SandboxSessionId,
    SandboxSpec,
    Unrestricted,
)

#: The kernel's limit of one argument or one `KEY=VALUE`, its closing NUL included (execve(2), MAX_ARG_STRLEN).
MAX_ARG_STRLEN = 131_072

_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ROOTFS = re.compile(r"(?:snapshot|image):[^\s\0]+")
_HARN_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


# Texts


def sh_quote(value: str) -> str:
    """Return `value` as one word of a POSIX shell, always in single quotes."""
    return "'" + value.replace("'", "'\"'\"'") + "'"


def harn_string(value: str) -> str:
    """Return `value` as a string literal of Harn, the agent language whose runtime defined this contract."""
    return f'"{value.translate(_HARN_ESCAPES)}"'


def duration_secs(duration: Duration) -> int:
    """Return the whole seconds of `duration`, at least 1: a zero means "no limit" to programs like timeout(1)."""
    return max(1, duration.secs)


# Sessions


def validate_session_id(value: str) -> SandboxSessionId:
    """Return `value` as an id that a new session may bear.

    Raises:
        InvalidRequest: it is blank, or not of the pattern.
    """
    session_id = SandboxSessionId(value)
    if not _SESSION_ID.fullmatch(session_id):
        raise InvalidRequest(
            f"session id {shown(value)} must begin with a letter or digit and have at most 128 of A-Z a-z 0-9 . _ -"
        )
    return session_id


def validate_snapshot_name(value: str) -> None:
    """Check the name of a snapshot: written as a session's id is.

    Raises:
        InvalidRequest: it breaks the pattern.
    """
    if not _SESSION_ID.fullmatch(fields.text(value, "snapshot name")):
        raise InvalidRequest(
            f"snapshot name {shown(value)} must begin with a letter or digit and have at most 128 of A-Z a-z 0-9 . _ -"
        )


def validate_spec(spec: SandboxSpec) -> None:
    """Check everything about `spec` that does not depend on a backend.

    Raises:
        InvalidRequest: a part of it cannot be honoured by any backend.
    """
    if spec.session_id is not None:
        validate_session_id(spec.session_id)
    validate_labels(spec.labels.items())
    validate_policy(spec.network_policy)
    mount_targets(spec.mounts)
    validate_limits(spec.limits)
    if spec.rootfs != HOST_ROOTFS and not _ROOTFS.fullmatch(spec.rootfs):
        raise InvalidRequest(f"rootfs must be `host`, `snapshot:ID` or `image:REF`, got {shown(spec.rootfs)}")
    for name in ("pids", "open_files", "disk_mb"):
        _refuse_zero(getattr(spec, name), name)
    validate_user(spec.user)


def validate_limits(limits: ResourceLimits) -> None:
    """Refuse limits of nothing.

    Raises:
        InvalidRequest: `cpu_count`, `memory_mb` or `wall_time` is 0.
    """
    _refuse_zero(limits.cpu_count, "cpu_count")
    _refuse_zero(limits.memory_mb, "memory_mb")
    if limits.wall_time == Duration(0):
        raise InvalidRequest("wall_time must be more than 0; leave it out for no limit")


def validate_labels(labels: Iterable[tuple[str, str]]) -> None:
    """Refuse labels that no listing could show or select by.

    Raises:
        InvalidRequest: a key is blank, or a NUL is in a key or value.
    """
    for key, value in labels:
        if not key.strip(WHITE_SPACE):
            raise InvalidRequest("label key cannot be empty")
        _refuse_nul(key, "label key")
        _refuse_nul(value, f"label `{key}`")


def validate_policy(policy: Unrestricted | Limited) -> None:
    """Check the form of a policy; what an entry means is the egress layer's business.

    Raises:
        InvalidRequest: an entry of the allow-list is empty or has white space or NUL in it.
    """
    if isinstance(policy, Limited):
        for host in policy.allowed_hosts:
            if not host:
                raise InvalidRequest("allowed_hosts entry cannot be empty")
            if "\0" in host or any(char in WHITE_SPACE for char in host):
                raise InvalidRequest(f"allowed_hosts entry {shown(host)} must not contain white space or NUL")


def validate_user(user: str | None) -> None:
    """Check a user name, or a uid written in decimal.

    Raises:
        InvalidRequest: it can be neither.
    """
    if user is None:
        return
    # 2**32 - 1 is (uid_t)-1, which means "no change" to the kernel
    if not _USER.fullmatch(user) or (user[0].isdigit() and int(user) >= U32_MAX):
        raise InvalidRequest(f"user {shown(user)} must be a user name or a uid below {U32_MAX}")


# Mounts


def normalized_mount_target(target: str) -> str:
    """Return `target` without surrounding white space and trailing slashes; inner `//` is kept.

    Raises:
        InvalidRequest: it is not absolute (`/` itself is not a target), has a `..` segment, or a NUL.
    """
    trimmed = target.strip(WHITE_SPACE).rstrip("/")
    if not trimmed.startswith("/"):
        raise InvalidRequest(f"mount target `{target}` must be absolute")
    if ".." in trimmed.split("/"):
        raise InvalidRequest(f"mount target `{target}` must not contain a `..` component")
    _refuse_nul(trimmed, "mount target")
    return trimmed


def collapsed_mount_target(target: str) -> str:
    """Return the one spelling of a normalized target by which two of them compare: no `//`, no `.` segment."""
    return "/" + "/".join(part for part in target.split("/") if part not in {"", "."})


def validate_mount(mount: FilesystemMount, taken: Iterable[str] = ()) -> str:
    """Return the normalized target of `mount`, which must be none of the targets `taken`.

    Raises:
        InvalidRequest: target or source is malformed, the target is taken, or a copy-on-write mount is read-write.
    """
    target = normalized_mount_target(mount.target)
    collapsed = collapsed_mount_target(target)
    if collapsed == "/":
        raise InvalidRequest(f"mount target `{mount.target}` must be absolute")
    if any(collapsed == collapsed_mount_target(other) for other in taken):
        raise InvalidRequest(f"mount target `{mount.target}` is already mounted")
    _refuse_nul(mount.source, "mount source")
    if mount.source and not mount.source.startswith("/"):
        raise InvalidRequest(f"mount source `{mount.source}` must be absolute, or empty for a fresh directory")
    if mount.copy_on_write and mount.access is not FilesystemAccess.READ_ONLY:
        raise InvalidRequest(f"mount target `{mount.target}`: copy_on_write goes with access read_only")
    return target


def mount_targets(mounts: Iterable[FilesystemMount]) -> tuple[str, ...]:
    """Return the normalized targets of a spec's mounts; one of them may replace the memory mount.

    Raises:
        InvalidRequest: one is malformed, or two are the same place (the outputs mount is always there).
    """
    taken = [OUTPUTS_MOUNT]
    for mount in mounts:
        taken.append(validate_mount(mount, taken))
    return tuple(taken[1:])


def replaces_memory_mount(target: str) -> bool:
    """Tell whether a normalized target is the canonical memory mount."""
    return collapsed_mount_target(target) == MEMORY_MOUNT


# Execs


def validate_exec(request: ExecRequest) -> None:
    """Check everything about `request` that does not depend on a backend.

    Raises:
        InvalidRequest: the kernel or the contract would refuse it.
    """
    if not request.command.strip(WHITE_SPACE):
        raise InvalidRequest("exec command cannot be empty")
    _check_exec_text(request.command, "exec command")
    for index, argument in enumerate(request.args):
        _check_exec_text(argument, f"exec argument {index}")
    for key, value in request.env.items():
        validate_env_key(key)
        _check_exec_text(f"{key}={value}", f"environment variable `{key}`")
    if request.cwd is not None:
        _refuse_nul(request.cwd, "exec cwd")
    if request.timeout == Duration(0):
        raise InvalidRequest("exec timeout must be more than 0; leave it out for the session's wall_time")
    if request.stdin is not None and request.stdin_base64 is not None:
        raise InvalidRequest("exec has both stdin and stdin_base64; give one")
    validate_user(request.user)


def validate_env_key(key: str) -> None:
    """Check the name of an environment variable.

    Raises:
        InvalidRequest: it is not of the form `[A-Za-z_][A-Za-z0-9_]*`.
    """
    if not _ENV_KEY.fullmatch(key):
        raise InvalidRequest(f"invalid environment key `{key}`")


def stdin_bytes(request: ExecRequest) -> bytes | None:
    """Return what the command is to read, or None for end-of-file at once.

    Raises:
        InvalidRequest: `stdin_base64` is not base64, or `stdin` has no bytes.
    """
    if request.stdin is not None:
        return _encoded(request.stdin, "exec stdin")
    if request.stdin_base64 is None:
        return None
    from base64 import b64decode

    try:
        return b64decode(request.stdin_base64, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"exec stdin_base64 is not base64: {error}") from None


def _check_exec_text(value: str, name: str) -> None:
    _refuse_nul(value, name)
    if len(value) * 4 < MAX_ARG_STRLEN and value.isascii():
        return
    size = len(_encoded(value, name))
    if size >= MAX_ARG_STRLEN:
        raise InvalidRequest(
            f"{name} has {size} bytes; the kernel takes fewer than {MAX_ARG_STRLEN} in one (MAX_ARG_STRLEN, 128 KiB): "
            "pass it by stdin or in a file"
        )


def _encoded(value: str, name: str) -> bytes:
    try:
        # an argument that came from a Python command line carries its undecodable bytes as lone surrogates
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} has no bytes in UTF-8: {error.reason}") from None


def _refuse_nul(value: str, name: str) -> None:
    if "\0" in value:
        raise InvalidRequest(f"{name} must not contain NUL")


def _refuse_zero(value: int | None, name: str) -> None:
    if value == 0:
        raise InvalidRequest(f"{name} must be at least 1; leave it out for no limit of your own")
