"""The values of the contract, frozen, in wire order.

How a field behaves on the wire is read from its default, so that it is said in one place:

* no default, or a factory: always written, required when reading (the constructor alone has the default);
* the factory `absent`: optional; always written, null when None, may be absent when reading;
* a plain value: an extension of ours; written only when it differs, may be absent when reading.

Constructors check types and ranges (`InvalidRequest`) and freeze; what a well-formed value may ask of a backend is the
business of `alcove.contract.rules`, since a value that a Rust peer wrote must be readable before it can be refused.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from os import PathLike, fspath
from typing import TYPE_CHECKING, Self

from msgspec import Struct, field
from msgspec.structs import force_setattr

from alcove.contract import fields
from alcove.contract.errors import InvalidRequest
from alcove.contract.fields import EMPTY_MAP, I32_MAX, I32_MIN, U32_MAX, U64_MAX, FrozenMap, absent, none_listed

#: Where a session finds the agent's durable memory; read-only to the guest by default.
MEMORY_MOUNT = "/mnt/memory"
#: Where a session leaves what it made; writable.
OUTPUTS_MOUNT = "/mnt/session/outputs"
#: The root file system of a spec that names none.
HOST_ROOTFS = "host"

_NANOS_PER_SEC = 1_000_000_000


class SandboxSessionId(str):
    """A session's name: a string that is not blank, a bare JSON string on the wire.

    Raises:
        InvalidRequest: the value is blank.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not fields.text(value, "session id").strip(fields.WHITE_SPACE):
            raise InvalidRequest("session id cannot be empty")
        return super().__new__(cls, value)


class Duration(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """A length of time: whole seconds (u64) and nanoseconds (u32), of which 1e9 or more carry into the seconds.

    Raises:
        InvalidRequest: a part is negative, no whole number, or out of range, or the carry overflows.
    """

    secs: int
    nanos: int = field(default_factory=int)

    def __post_init__(self) -> None:
        secs = fields.whole(self.secs, "duration secs", 0, U64_MAX)
        carry, nanos = divmod(fields.whole(self.nanos, "duration nanos", 0, U32_MAX), _NANOS_PER_SEC)
        if secs + carry > U64_MAX:
            raise InvalidRequest(f"duration overflows: {secs} s and {self.nanos} ns are more than {U64_MAX} s")
        force_setattr(self, "secs", secs + carry)
        force_setattr(self, "nanos", nanos)

    @classmethod
    def of(cls, seconds: "Duration | float", name: str = "duration") -> "Duration":
        """Return `seconds`, a number or already a duration, to the nearest nanosecond.

        Raises:
            InvalidRequest: `seconds` is negative, NaN, infinite, too large for u64, or no number.
        """
        if isinstance(seconds, Duration):
            return seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InvalidRequest(f"{name} must be a number of seconds, got {fields.shown(seconds)}")
        if not 0 <= seconds <= U64_MAX:
            raise InvalidRequest(f"{name} must be from 0 to {U64_MAX} seconds, got {fields.shown(seconds)}")
        whole = int(seconds)
        if whole > U64_MAX:  # float(U64_MAX) is 2**64
            raise InvalidRequest(f"{name} must be from 0 to {U64_MAX} seconds, got {fields.shown(seconds)}")
        return cls(whole, round((seconds - whole) * _NANOS_PER_SEC))

    @property
    def seconds(self) -> float:
        """The whole length in seconds."""
        return self.secs + self.nanos / _NANOS_PER_SEC


def _optional_duration(value: Duration | float | None, name: str) -> Duration | None:
    return None if value is None else Duration.of(value, name)


class Unrestricted(Struct, frozen=True, tag="unrestricted", tag_field="mode"):
    """No egress restriction: the session shares the host's network."""


class Limited(Struct, frozen=True, tag="limited", tag_field="mode"):
    """Egress to the listed hosts only; an empty list denies all of it."""

    allowed_hosts: tuple[str, ...] = field(default_factory=none_listed)

    if TYPE_CHECKING:

        def __init__(self, allowed_hosts: Iterable[str] = ()) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "allowed_hosts", fields.items(self.allowed_hosts, "allowed_hosts", str))


#: What a session may reach, tagged by `mode` on the wire.
NetworkPolicy = Unrestricted | Limited


class FilesystemAccess(StrEnum):
    """Whether the guest may write to a mount."""

    READ_ONLY = "read_only"
    READ_WRITE = "read_write"


class SandboxState(StrEnum):
    """Where a session is in its life; a suspended one resumes on its next exec."""

    PROVISIONED = "provisioned"
    RUNNING = "running"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


class FilesystemMount(Struct, frozen=True, omit_defaults=True):
    """A host directory `source` (empty: a fresh one of the session's) to be seen at the absolute guest path `target`.

    `copy_on_write` goes with read-only access: the guest may write, and the host never sees it.
    """

    source: str
    target: str
    access: FilesystemAccess = field(default_factory=lambda: FilesystemAccess.READ_ONLY)
    copy_on_write: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            source: str | PathLike[str],
            target: str,
            access: FilesystemAccess = FilesystemAccess.READ_ONLY,
            *,
            copy_on_write: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        source = fspath(self.source) if isinstance(self.source, PathLike) else self.source
        force_setattr(self, "source", fields.text(source, "mount source"))
        fields.text(self.target, "mount target")
        force_setattr(self, "access", fields.member(self.access, "mount access", FilesystemAccess))
        fields.flag(self.copy_on_write, "mount copy_on_write")


class ResourceLimits(Struct, frozen=True, omit_defaults=True):
    """Ceilings of a session: `wall_time` of any single exec, CPUs, memory in MiB, idle time before suspension."""

    wall_time: Duration | None = field(default_factory=absent)
    cpu_count: int | None = field(default_factory=absent)
    memory_mb: int | None = field(default_factory=absent)
    idle_timeout: Duration | None = field(default_factory=absent)

    if TYPE_CHECKING:

        def __init__(
            self,
            wall_time: Duration | float | None = None,
            cpu_count: int | None = None,
            memory_mb: int | None = None,
            idle_timeout: Duration | float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "wall_time", _optional_duration(self.wall_time, "wall_time"))
        fields.optional_u32(self.cpu_count, "cpu_count")
        fields.optional_u32(self.memory_mb, "memory_mb")
        force_setattr(self, "idle_timeout", _optional_duration(self.idle_timeout, "idle_timeout"))


class SandboxSpec(Struct, frozen=True, omit_defaults=True):
    """What a session is to be.

    `rootfs` is `host`, `snapshot:ID` or `image:REF`; `output_limit` is in bytes a stream, `disk_mb` in MiB; `user` is a
    name or a uid in decimal. `best_effort` lets a backend leave out what it cannot enforce and tell so on the session;
    `set_id` lets the guest make set-id files, which excludes read-write host directories.
    """

    session_id: SandboxSessionId | None = field(default_factory=absent)
    labels: Mapping[str, str] = field(default_factory=FrozenMap)
    network_policy: Unrestricted | Limited = field(default_factory=Unrestricted)
    mounts: tuple[FilesystemMount, ...] = field(default_factory=none_listed)
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    rootfs: str = HOST_ROOTFS
    pids: int | None = None
    open_files: int | None = None
    disk_mb: int | None = None
    output_limit: int | None = None
    user: str | None = None
    best_effort: bool = False
    set_id: bool = False

    if TYPE_CHECKING:

        def __init__(  # noqa: PLR0913
            self,
            session_id: str | None = None,
            labels: Mapping[str, str] = EMPTY_MAP,
            network_policy: Unrestricted | Limited = Unrestricted(),  # noqa: B008
            mounts: Iterable[FilesystemMount] = (),
            limits: ResourceLimits = ResourceLimits(),  # noqa: B008
            *,
            rootfs: str = HOST_ROOTFS,
            pids: int | None = None,
            open_files: int | None = None,
            disk_mb: int | None = None,
            output_limit: int | None = None,
            user: str | None = None,
            best_effort: bool = False,
            set_id: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.session_id is not None:
            force_setattr(self, "session_id", SandboxSessionId(self.session_id))
        force_setattr(self, "labels", fields.text_map(self.labels, "labels"))
        fields.instance(self.network_policy, "network_policy", (Unrestricted, Limited))
        force_setattr(self, "mounts", fields.items(self.mounts, "mounts", FilesystemMount))
        fields.instance(self.limits, "limits", (ResourceLimits,))
        self._check_extensions()

    def _check_extensions(self) -> None:
        if fields.text(self.rootfs, "rootfs") == HOST_ROOTFS:
            force_setattr(self, "rootfs", HOST_ROOTFS)  # the encoder leaves out a default by identity
        fields.optional_u32(self.pids, "pids")
        fields.optional_u32(self.open_files, "open_files")
        fields.optional_u32(self.disk_mb, "disk_mb")
        fields.optional_u64(self.output_limit, "output_limit")
        fields.optional_text(self.user, "user")
        fields.flag(self.best_effort, "best_effort")
        fields.flag(self.set_id, "set_id")


class ResolvedMount(Struct, frozen=True, omit_defaults=True):
    """A mount as the session has it; `host_path` is None where the backend tells none."""

    target: str
    access: FilesystemAccess
    host_path: str | None = field(default_factory=absent)

    def __post_init__(self) -> None:
        fields.text(self.target, "mount target")
        force_setattr(self, "access", fields.member(self.access, "mount access", FilesystemAccess))
        fields.optional_text(self.host_path, "mount host_path")


class SandboxSession(Struct, frozen=True, omit_defaults=True):
    """A session as its backend tells it; canonical mounts first, what is enforced in `metadata`."""

    id: SandboxSessionId
    backend: str
    state: SandboxState
    mounts: tuple[ResolvedMount, ...] = field(default_factory=none_listed)
    metadata: Mapping[str, str] = field(default_factory=FrozenMap)
    labels: Mapping[str, str] = EMPTY_MAP

    if TYPE_CHECKING:

        def __init__(
            self,
            id: str,  # noqa: A002
            backend: str,
            state: SandboxState,
            mounts: Iterable[ResolvedMount] = (),
            metadata: Mapping[str, str] = EMPTY_MAP,
            labels: Mapping[str, str] = EMPTY_MAP,
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "id", SandboxSessionId(self.id))
        fields.text(self.backend, "backend")
        force_setattr(self, "state", fields.member(self.state, "state", SandboxState))
        force_setattr(self, "mounts", fields.items(self.mounts, "mounts", ResolvedMount))
        force_setattr(self, "metadata", fields.text_map(self.metadata, "metadata"))
        force_setattr(self, "labels", fields.text_map(self.labels, "labels") or EMPTY_MAP)


class ExecRequest(Struct, frozen=True, omit_defaults=True):
    """A command to run: `command` is a program or a shell builtin, `cwd` is relative to the session's start directory.

    `timeout` falls back to the session's `limits.wall_time`; without `stdin` (text) or `stdin_base64` (any bytes) the
    command reads end-of-file at once. `raw` asks for the output's bytes, `debug` allows ptrace. Extensions (everything
    after `timeout`) are given by keyword.
    """

    command: str
    args: tuple[str, ...] = field(default_factory=none_listed)
    cwd: str | None = field(default_factory=absent)
    env: Mapping[str, str] = field(default_factory=FrozenMap)
    stdin: str | None = field(default_factory=absent)
    timeout: Duration | None = field(default_factory=absent)
    user: str | None = None
    output_limit: int | None = None
    stdin_base64: str | None = None
    raw: bool = False
    debug: bool = False

    if TYPE_CHECKING:

        def __init__(  # noqa: PLR0913
            self,
            command: str,
            args: Iterable[str] = (),
            cwd: str | None = None,
            env: Mapping[str, str] = EMPTY_MAP,
            stdin: str | None = None,
            timeout: Duration | float | None = None,
            *,
            user: str | None = None,
            output_limit: int | None = None,
            stdin_base64: str | None = None,
            raw: bool = False,
            debug: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        fields.text(self.command, "command")
        force_setattr(self, "args", fields.items(self.args, "args", str))
        fields.optional_text(self.cwd, "cwd")
        force_setattr(self, "env", fields.text_map(self.env, "env"))
        fields.optional_text(self.stdin, "stdin")
        force_setattr(self, "timeout", _optional_duration(self.timeout, "timeout"))
        fields.optional_text(self.user, "user")
        fields.optional_u64(self.output_limit, "output_limit")
        fields.optional_text(self.stdin_base64, "stdin_base64")
        fields.flag(self.raw, "raw")
        fields.flag(self.debug, "debug")


class ExecResult(Struct, frozen=True, omit_defaults=True):
    """How a command ended. A timeout is a result too: `timed_out`, exit code -1, what was captured kept.

    `signal` is the number that killed it; `stdout_omitted` and `stderr_omitted` are the bytes left out between the two
    kept halves of a stream; the base64 fields hold the bytes of a `raw` request.
    """

    stdout: str = field(default_factory=str)
    stderr: str = field(default_factory=str)
    exit_code: int = field(default_factory=int)
    timed_out: bool = field(default_factory=bool)
    signal: int | None = None
    oom_killed: bool = False
    stdout_omitted: int = 0
    stderr_omitted: int = 0
    stdout_base64: str | None = None
    stderr_base64: str | None = None

    def __post_init__(self) -> None:
        fields.text(self.stdout, "stdout")
        fields.text(self.stderr, "stderr")
        fields.whole(self.exit_code, "exit_code", I32_MIN, I32_MAX)
        fields.flag(self.timed_out, "timed_out")
        if self.signal is not None:
            fields.whole(self.signal, "signal", 1, I32_MAX)
        fields.flag(self.oom_killed, "oom_killed")
        fields.whole(self.stdout_omitted, "stdout_omitted", 0, U64_MAX)
        fields.whole(self.stderr_omitted, "stderr_omitted", 0, U64_MAX)
        fields.optional_text(self.stdout_base64, "stdout_base64")
        fields.optional_text(self.stderr_base64, "stderr_base64")

    @property
    def success(self) -> bool:
        """True when the command ended by itself with exit code 0."""
        return self.exit_code == 0 and not self.timed_out


class SandboxSnapshot(Struct, frozen=True, omit_defaults=True):
    """A session's files at one moment; `metadata` has `durable`, `parent`, `bytes`, `files`."""

    session_id: SandboxSessionId
    backend: str
    snapshot_id: str
    metadata: Mapping[str, str] = field(default_factory=FrozenMap)

    if TYPE_CHECKING:

        def __init__(
            self, session_id: str, backend: str, snapshot_id: str, metadata: Mapping[str, str] = EMPTY_MAP
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "session_id", SandboxSessionId(self.session_id))
        fields.text(self.backend, "backend")
        fields.text(self.snapshot_id, "snapshot_id")
        force_setattr(self, "metadata", fields.text_map(self.metadata, "metadata"))


class SandboxCapabilities(Struct, frozen=True, omit_defaults=True):
    """What a backend can do: isolate processes, honour a per-host allow-list, snapshot, resume, suspend when idle."""

    local_process_sandbox: bool = field(default_factory=bool)
    network_policy: bool = field(default_factory=bool)
    snapshot: bool = field(default_factory=bool)
    resume: bool = field(default_factory=bool)
    suspend_on_idle: bool = field(default_factory=bool)

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            fields.flag(getattr(self, name), name)
