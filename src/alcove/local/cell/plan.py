"""The launch plan: everything about a session that the native side is to do, as one value. Pure: reads no state."""

from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from alcove.contract import InvalidRequest, SandboxSpec, Unrestricted
from alcove.local import seccomp
from alcove.local.cell import landlock, rootfs
from alcove.local.cell.cgroups import OWN_PROCESSES, Groups
from alcove.local.cell.layout import Layout, SessionPlaces
from alcove.local.cell.operations import Kind, operation
from alcove.local.host import Host

_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWCGROUP = 0x0200_0000
_CLONE_NEWUTS = 0x0400_0000
_CLONE_NEWIPC = 0x0800_0000
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP and NET_BIND_SERVICE of linux/capability.h: what
# makes root inside useful; none of it reaches beyond the cell's own user namespace.
CAPABILITIES = 0b101_1111_1011

#: Ids of a session of root's, from 0.
ID_RANGE = 65_536

_RLIMIT_CORE = 4
_RLIMIT_NPROC = 6
_RLIMIT_NOFILE = 7
_RLIMIT_AS = 9
_OOM_SCORE = 500
# Budgets of the host's user that a session may not use up, and namespaces that no guest may make
# (see Documentation/admin-guide/sysctl/user.rst)
_USER_SYSCTLS = {
    "max_user_namespaces": 0,
    "max_inotify_instances": 64,
    "max_inotify_watches": 65_536,
    "max_fanotify_groups": 0,
}


class Resources(Struct, frozen=True):
    """What rlimits enforce, with or without groups; `charged` are those that count for the user outside as well."""

    open_files: int
    pids: int
    address_space: int | None
    charged: tuple[tuple[int, int], ...]


class LaunchPlan(Struct, frozen=True):
    """A plan, and what will be in force when every step of it has succeeded."""

    encoded: bytes
    isolation: str


def build(
    host: Host,
    spec: SandboxSpec,
    layout: Layout,
    places: SessionPlaces,
    groups: Groups,
    resources: Resources,
    base_id: int | None,
) -> LaunchPlan:
    """Build the plan of one session; `base_id` is the first host id of its range, None for a single-id map.

    Raises:
        InvalidRequest: the host's architecture has no seccomp program.
    """
    shared_network = isinstance(spec.network_policy, Unrestricted)
    encoded = b"".join(
        [
            *_namespaces(host, places.identity.hostname, shared_network=shared_network, base_id=base_id),
            *_groups(groups),
            *_limits(resources),
            _confinement(host.arch, host.landlock_abi, set_id=spec.set_id),
            *rootfs.operations(layout, places),
        ]
    )
    return LaunchPlan(encoded=encoded, isolation=_isolation(host.landlock_abi, groups, shared_network=shared_network))


def _namespaces(host: Host, hostname: str, *, shared_network: bool, base_id: int | None) -> Iterable[bytes]:
    mask = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS
    if not shared_network:
        mask |= _CLONE_NEWNET
        # the net namespace is the warden's, so CAP_NET_BIND_SERVICE of the cell has no say there
        yield operation(Kind.SYSCTL, "net/ipv4/ip_unprivileged_port_start", "0")
    # a plain user's later attaches are cloned by the warden from the host's tree; root's come along with the request
    yield operation(Kind.NAMESPACES, v0=mask, n0=0 if host.root else 1)
    yield operation(Kind.HOSTNAME, hostname)
    if base_id is None:
        yield operation(Kind.MAP_UID, n0=0, n1=host.uid, v0=1)
        yield operation(Kind.MAP_GID, n0=0, n1=host.gid, v0=1)
    else:
        yield operation(Kind.MAP_UID, n0=0, n1=base_id, v0=ID_RANGE)
        yield operation(Kind.MAP_GID, n0=0, n1=base_id, v0=ID_RANGE)
    for name, value in _USER_SYSCTLS.items():
        yield operation(Kind.USER_SYSCTL, f"user/{name}", str(value))


def _groups(groups: Groups) -> Iterable[bytes]:
    if groups.unified:
        yield operation(Kind.CGROUP_UNIFIED, groups.unified)
    for directory in dict.fromkeys(groups.v1.values()):
        yield operation(Kind.CGROUP_TASKS, f"{directory}/tasks")


def _limits(resources: Resources) -> Iterable[bytes]:
    yield operation(Kind.OOM_SCORE, n0=_OOM_SCORE)
    yield operation(Kind.RLIMIT, n0=_RLIMIT_CORE)
    yield operation(Kind.RLIMIT, n0=_RLIMIT_NOFILE, v0=resources.open_files, v1=resources.open_files)
    # void for the host's root, but no session runs as that; counted in the cell's own user namespace
    pids = resources.pids + OWN_PROCESSES
    yield operation(Kind.RLIMIT, n0=_RLIMIT_NPROC, v0=pids, v1=pids)
    for kind, most in resources.charged:
        yield operation(Kind.RLIMIT, n0=kind, v0=most, v1=most)
    if resources.address_space is not None:
        yield operation(Kind.RLIMIT, n0=_RLIMIT_AS, v0=resources.address_space, v1=resources.address_space)


@lru_cache(maxsize=4)
def _confinement(arch: str, landlock_abi: int, *, set_id: bool) -> bytes:
    """Capabilities, Landlock and seccomp: the same for every session of a kind."""
    parts = [operation(Kind.CAPABILITIES, v0=CAPABILITIES), *landlock.ruleset(landlock_abi).operations()]
    try:
        for variant, debug in enumerate((False, True)):
            parts.append(operation(Kind.SECCOMP, seccomp.program(arch, debug=debug, set_id=set_id), n0=variant))
    except ValueError as error:
        raise InvalidRequest(f"{error}; Alcove's local backend runs on x86_64 and aarch64") from None
    return b"".join(parts)


def _isolation(landlock_abi: int, groups: Groups, *, shared_network: bool) -> str:
    layers = ["userns", "cellns", "mountns", "pidns", *([] if shared_network else ["netns"])]
    layers += ["ipcns", "utsns", "cgroupns", "pivot_root", "caps", "nnp"]
    layers += [f"landlock:{landlock_abi}"] if landlock_abi else []
    if shared_network and landlock_abi < landlock.ABI_WITH_SCOPES:
        layers.append("abstract-sockets:open")  # by best_effort only
    return ",".join([*layers, "seccomp", f"cgroup:{groups.versions()}"])
