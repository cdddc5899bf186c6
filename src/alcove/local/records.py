"""What the store keeps of a session besides its spec, and the session as callers see it."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder

from alcove.contract import (
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    FilesystemAccess,
    Limited,
    ResolvedMount,
    SandboxSession,
    SandboxSpec,
    SandboxState,
    Unrestricted,
)
from alcove.contract.rules import replaces_memory_mount
from alcove.egress.config import EgressConfig
from alcove.local.cell.cgroups import NO_GROUPS, Groups
from alcove.local.cell.processes import Processes

#: `metadata.root` of a session whose guest's root owns the root file system.
OWNED = "host:owned"
#: The same of one that shares the host's.
SHARED = "host:shared"


class Attached(Struct, frozen=True):
    """A mount beyond the canonical ones; `own` is a directory of the session's, not the caller's.

    `layer` names the directory of the session's that has the changes of a copy-on-write mount; else it is empty.
    `owner` is the host uid that the source belonged to when it was allowed.
    """

    source: str
    target: str
    access: FilesystemAccess
    own: bool
    layer: str = ""
    owner: int | None = None


class Egress(Struct, frozen=True):
    """How a session that may reach hosts is served: `networks` are the addresses that have a route in its namespace.

    `prepared`: the namespace of its processes has the redirects and sockets; anew for each new set of processes.
    """

    settings: EgressConfig
    networks: tuple[str, ...] = ()
    prepared: bool = False


class Maker(Struct, frozen=True):
    """The process that is making a session, by pid and start time: gone, it left something half made."""

    pid: int
    started: int


class Record(Struct, frozen=True):
    """A session's record; `processes` is None until it was provisioned and after it was stopped.

    `maker` is there from the first to the last step of provisioning. `layers` lie below its own files, the lowest
    first; `parent` is the snapshot that they are of. `sealing` is the layer that its files are on their way into.
    `disk`: what its guest writes lies in an image of its own (alcove.local.disk.disk).
    `settled` names the boot in which its processes ended with nobody left who could write to its files.
    `frozen`: its processes are there and stand still, until somebody uses the session.
    """

    maker: Maker | None = None
    processes: Processes | None = None
    groups: Groups = NO_GROUPS
    isolation: str = ""
    limits: str = ""
    root: str = ""
    memory: str = ""
    idmap: bool = False
    attached: tuple[Attached, ...] = ()
    egress: Egress | None = None
    layers: tuple[str, ...] = ()
    parent: str | None = None
    sealing: str | None = None
    settled: str = ""
    frozen: bool = False
    disk: bool = False


encode = Encoder().encode
decode = Decoder(Record).decode


def as_session(
    session_id: str, spec: SandboxSpec, record: Record, state: SandboxState, directory: str
) -> SandboxSession:
    """The contract's view of a session: canonical mounts first, then the attached ones in their order."""
    return SandboxSession(
        id=session_id,
        backend="local",
        state=state,
        mounts=_mounts(record, directory),
        metadata={
            "isolation": record.isolation,
            "limits": record.limits,
            **_network(spec.network_policy),
            "root": record.root,
        },
        labels=spec.labels,
    )


def _network(policy: Unrestricted | Limited) -> dict[str, str]:
    """The policy in force: `host`, `none`, or `limited` and to what."""
    if isinstance(policy, Unrestricted):
        return {"network": "host"}
    if not policy.allowed_hosts:
        return {"network": "none"}
    return {"allowed_hosts": " ".join(policy.allowed_hosts), "network": "limited"}


def _mounts(record: Record, directory: str) -> list[ResolvedMount]:
    memory = ResolvedMount(MEMORY_MOUNT, FilesystemAccess.READ_ONLY, record.memory)
    attached = []
    for mount in record.attached:
        resolved = ResolvedMount(mount.target, mount.access, mount.source)
        if replaces_memory_mount(mount.target):
            memory = resolved
        else:
            attached.append(resolved)
    # what lies in an image has no path on the host
    outputs = ResolvedMount(OUTPUTS_MOUNT, FilesystemAccess.READ_WRITE, None if record.disk else f"{directory}/outputs")
    return [memory, outputs, *attached]
