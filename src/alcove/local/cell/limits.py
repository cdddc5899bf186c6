"""Which of a spec's limits this host enforces, and by what; what it cannot is refused, or told by best effort."""

import resource

from msgspec import Struct

from alcove.contract import InvalidRequest, LifecycleError, SandboxSpec
from alcove.local.cell import cgroups
from alcove.local.cell.plan import Resources
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import disk
from alcove.local.host import Host

_MIB = 1 << 20
_UNENFORCED = "unenforced"
# Charged to the user who made the session as well, so without these one session could use up what all others need
# (pending signals stand for POSIX timers too; kernel/ucount.c)
_CHARGED_TO_USER = {
    resource.RLIMIT_SIGPENDING: 2048,
    resource.RLIMIT_MSGQUEUE: 819_200,
    resource.RLIMIT_MEMLOCK: 8 << 20,
}


class Enforced(Struct, frozen=True):
    """The limits as groups and rlimits take them, and what `metadata.limits` says of each; `disk`: by an image."""

    groups: cgroups.Limits
    resources: Resources
    told: str
    disk: bool = False


def decide(host: Host, config: LocalSandboxConfig, spec: SandboxSpec) -> Enforced:
    """Decide how each limit is enforced.

    Raises:
        LifecycleError: this host cannot enforce one that was asked for, and `best_effort` was not.
    """
    told: dict[str, str] = {}
    if not host.landlock_abi and not spec.best_effort:
        raise LifecycleError(
            "Landlock is not there on this kernel (Linux 5.13, CONFIG_SECURITY_LANDLOCK, and `landlock` in lsm= of the "
            "kernel's command line): allow best_effort to do without this second fence"
        )
    # a hard limit of the caller's own cannot be raised, and is the stricter of the two
    pids = _at_most(spec.pids or config.default_pids, resource.RLIMIT_NPROC, cgroups.OWN_PROCESSES)
    open_files = _at_most(spec.open_files or config.default_open_files, resource.RLIMIT_NOFILE, 0)
    memory = spec.limits.memory_mb * _MIB if spec.limits.memory_mb else None
    cpus = spec.limits.cpu_count
    told["pids"] = f"{pids}:{_group(host, 'pids') or 'rlimit'}"
    told["open_files"] = f"{open_files}:rlimit"
    address_space = None
    if memory is not None and not _group(host, "memory"):
        _need_best_effort(spec, "memory_mb", "memory", host)
        address_space, memory = memory, None
        told["memory_mb"] = f"{spec.limits.memory_mb}:rlimit-per-process"
    elif memory is not None:
        told["memory_mb"] = f"{spec.limits.memory_mb}:{_group(host, 'memory')}"
    if cpus is not None and not _group(host, "cpu"):
        _need_best_effort(spec, "cpu_count", "cpu", host)
        told["cpu_count"], cpus = f"{cpus}:{_UNENFORCED}", None
    elif cpus is not None:
        told["cpu_count"] = f"{cpus}:{_group(host, 'cpu')}"
    if spec.limits.wall_time is not None:
        told["wall_time"] = f"{spec.limits.wall_time.seconds:g}s"
    if spec.limits.idle_timeout is not None:
        told["idle_timeout"] = f"{spec.limits.idle_timeout.seconds:g}s"
    if spec.disk_mb is not None:
        told["disk_mb"] = _disk(host, spec, spec.disk_mb)
    return Enforced(
        groups=cgroups.Limits(memory=memory, pids=pids if _group(host, "pids") else None, cpus=cpus),
        resources=Resources(
            open_files=open_files,
            pids=pids,
            address_space=address_space,
            charged=tuple((kind, _at_most(most, kind, 0)) for kind, most in _CHARGED_TO_USER.items()),
        ),
        told=",".join(f"{name}={how}" for name, how in sorted(told.items())),
        disk=told.get("disk_mb", _UNENFORCED) != _UNENFORCED,
    )


def _at_most(wanted: int, limit: int, ours: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else max(0, min(wanted, hard - ours))


def _group(host: Host, controller: str) -> str | None:
    if controller in host.hierarchies.unified_controllers:
        return "cgroup-v2"
    return "cgroup-v1" if controller in host.hierarchies.v1 else None


def _need_best_effort(spec: SandboxSpec, name: str, controller: str, host: Host) -> None:
    if spec.best_effort:
        return
    who = "root" if host.root else f"uid {host.uid}"
    raise LifecycleError(
        f"{name} cannot be enforced: this host gives {who} no {controller} controller; delegate one "
        "(`alcove doctor` has the command), leave the limit out, or allow best_effort"
    )


def _disk(host: Host, spec: SandboxSpec, megabytes: int) -> str:
    because = disk.refusal(root=host.root)
    if because and not spec.best_effort:
        raise LifecycleError(
            f"disk_mb cannot be enforced: {because} (`alcove doctor`); leave the limit out, or allow best_effort"
        )
    if megabytes < disk.LEAST_MB:
        raise InvalidRequest(f"disk_mb must be at least {disk.LEAST_MB}: less has no room for a file system")
    return _UNENFORCED if because else f"{megabytes}:loop-image"
