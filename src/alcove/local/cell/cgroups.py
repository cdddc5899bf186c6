"""A session's control groups: v2 where a controller is there, v1 where not, and on hybrid hosts both.

Created beneath the caller's own groups (an outer limit stays in force), named `alcove-KEY`, one level, no parents left.
Sources: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct

_CONTROLLERS = ("memory", "pids", "cpu")
_CPU_PERIOD_US = 100_000
_REMOVE_WITHIN_S = 2.0
_PIECE = 1 << 16
#: What of ours counts among a session's processes: the spawner, and the monitor of one exec.
OWN_PROCESSES = 2


class Hierarchies(Struct, frozen=True):
    """Directories under which this process may make groups: by v1 controller, and the unified one."""

    v1: dict[str, str]
    unified: str | None
    unified_controllers: frozenset[str]

    def can(self, controller: str) -> bool:
        """Tell whether a limit of `controller` can be enforced."""
        return controller in self.v1 or controller in self.unified_controllers


class Groups(Struct, frozen=True):
    """One session's groups: directories by v1 controller, and the unified one."""

    v1: dict[str, str]
    unified: str | None
    unified_controllers: frozenset[str]

    def directories(self) -> list[str]:
        """Every directory, each once."""
        return list(dict.fromkeys([*self.v1.values(), *([self.unified] if self.unified else [])]))

    def versions(self) -> str:
        """`v1`, `v2`, `v1+v2` or `none`."""
        return "+".join([*(["v1"] if self.v1 else []), *(["v2"] if self.unified else [])]) or "none"


NO_GROUPS = Groups(v1={}, unified=None, unified_controllers=frozenset())


def detect() -> Hierarchies:
    """Find the hierarchies in which this process may make groups for its sessions."""
    own = _own_groups()
    v1: dict[str, str] = {}
    unified = None
    for mount_point, root, kind, options in _mounts():
        if kind == "cgroup":
            for controller in _CONTROLLERS:
                if controller in options and (path := _beneath(mount_point, root, own.get(controller))):
                    v1[controller] = path
        elif unified is None:
            unified = _unified_parent(mount_point, root, own.get(""))
    controllers = frozenset(_read(f"{unified}/cgroup.subtree_control").split()) if unified else frozenset()
    return Hierarchies(
        v1={name: path for name, path in v1.items() if os.access(path, os.W_OK)},
        unified=unified,
        unified_controllers=controllers.intersection(_CONTROLLERS),
    )


def _unified_parent(mount_point: str, root: str, own: str | None) -> str | None:
    """Find where a group with controllers can be made.

    Below our own, which the kernel allows only while it has no process of its own; beside it, where that is delegated
    to us too; or for root at the hierarchy's top.
    """
    ours = _beneath(mount_point, root, own)
    beside = os.path.dirname(ours) if ours and ours != mount_point else None
    candidates = [path for path in (ours, beside, mount_point) if path and os.access(path, os.W_OK)]
    for path in candidates:
        available = [f"+{name}" for name in _read(f"{path}/cgroup.controllers").split() if name in _CONTROLLERS]
        if not available:
            continue
        with suppress(OSError):
            _write(f"{path}/cgroup.subtree_control", " ".join(available))
            return path
    return candidates[0] if candidates else None


def _own_groups() -> dict[str, str]:
    groups = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _mounts() -> Iterator[tuple[str, str, str, frozenset[str]]]:
    for line in _read("/proc/self/mountinfo").splitlines():
        if " - cgroup" not in line:
            continue
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        parts = fields.split(" ")
        yield parts[4], parts[3], kind, frozenset(options.split(","))


def _beneath(mount_point: str, root: str, group: str | None) -> str | None:
    """The directory of `group` under a mount that shows the hierarchy from `root` on."""
    if group is None:
        return None
    prefix = root.rstrip("/")
    if prefix and not (group == prefix or group.startswith(f"{prefix}/")):
        return mount_point
    path = mount_point + group[len(prefix) :].rstrip("/")
    return path if os.path.isdir(path) else mount_point


class Limits(Struct, frozen=True):
    """What groups enforce: bytes of memory, processes, CPUs; None is no limit."""

    memory: int | None = None
    pids: int | None = None
    cpus: int | None = None

    def controllers(self) -> list[str]:
        """The controllers that these limits need."""
        wanted = {"memory": self.memory, "pids": self.pids, "cpu": self.cpus}
        return [name for name, value in wanted.items() if value is not None]


def create(hierarchies: Hierarchies, key: str, limits: Limits) -> Groups:
    """Make the groups of the session `key` and write the limits that a hierarchy can enforce.

    Raises:
        OSError: the kernel refused; nothing is left.
    """
    name = f"alcove-{key}"
    wanted = limits.controllers()
    unified = f"{hierarchies.unified}/{name}" if hierarchies.unified else None
    v1 = {
        controller: f"{hierarchies.v1[controller]}/{name}"
        for controller in wanted
        if controller not in hierarchies.unified_controllers and controller in hierarchies.v1
    }
    groups = Groups(v1=v1, unified=unified, unified_controllers=hierarchies.unified_controllers.intersection(wanted))
    try:
        for directory in groups.directories():
            os.mkdir(directory, 0o755)
        for controller in wanted:
            _limit(groups, controller, limits)
    except OSError:
        remove(groups)
        raise
    return groups


def _limit(groups: Groups, controller: str, limits: Limits) -> None:
    unified = controller in groups.unified_controllers
    directory = groups.unified if unified else groups.v1.get(controller)
    if directory is None:
        return
    if controller == "pids":
        _write(f"{directory}/pids.max", str((limits.pids or 0) + OWN_PROCESSES))
    elif controller == "cpu":
        quota = (limits.cpus or 0) * _CPU_PERIOD_US
        if unified:
            _write(f"{directory}/cpu.max", f"{quota} {_CPU_PERIOD_US}")
        else:
            _write(f"{directory}/cpu.cfs_period_us", str(_CPU_PERIOD_US))
            _write(f"{directory}/cpu.cfs_quota_us", str(quota))
    elif unified:
        _write(f"{directory}/memory.max", str(limits.memory))
        with suppress(FileNotFoundError):  # no swap accounting: no swap to account for
            _write(f"{directory}/memory.swap.max", "0")
    else:
        _write(f"{directory}/memory.limit_in_bytes", str(limits.memory))
        with suppress(FileNotFoundError):
            _write(f"{directory}/memory.memsw.limit_in_bytes", str(limits.memory))


def every(hierarchies: Hierarchies, key: str) -> Groups:
    """Every group that the session `key` can have, whether or not it was made: what a half made session left."""
    name = f"alcove-{key}"
    return Groups(
        v1={controller: f"{directory}/{name}" for controller, directory in hierarchies.v1.items()},
        unified=f"{hierarchies.unified}/{name}" if hierarchies.unified else None,
        unified_controllers=hierarchies.unified_controllers,
    )


def oom_kills(groups: Groups) -> int:
    """How many processes of the session the kernel has killed for want of memory, so far."""
    if "memory" in groups.unified_controllers and groups.unified:
        text = _read(f"{groups.unified}/memory.events")
    elif "memory" in groups.v1:
        text = _read(f"{groups.v1['memory']}/memory.oom_control")
    else:
        return 0
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


def kill(groups: Groups) -> None:
    """Kill every process of the session, without the help of anything of ours."""
    if groups.unified:
        with suppress(OSError):
            _write(f"{groups.unified}/cgroup.kill", "1")  # Linux 5.14


def frozen(groups: Groups) -> bool:
    """Tell whether the session's processes are held still, or are about to be."""
    return groups.unified is not None and _read(f"{groups.unified}/cgroup.freeze").startswith("1")


def cpu_used(groups: Groups) -> float | None:
    """Seconds of processor time that everything of the session has used; None where the kernel does not count them."""
    if groups.unified is not None:
        for line in _read(f"{groups.unified}/cpu.stat").splitlines():  # there without a controller
            name, _, microseconds = line.partition(" ")
            if name == "usage_usec":
                return int(microseconds) / 1e6
    return None


def populated(groups: Groups) -> bool:
    """Tell whether any process is left that `kill` would end."""
    return groups.unified is not None and bool(_read(f"{groups.unified}/cgroup.procs"))


def remove(groups: Groups) -> None:
    """Remove the groups, killing what is left in them; absent ones are fine.

    Raises:
        OSError: a process is still in one of them.
    """
    deadline = time.monotonic() + _REMOVE_WITHIN_S
    for directory in groups.directories():
        _remove_one(groups, directory, deadline)


def _remove_one(groups: Groups, directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            # a killed process leaves its group a little after it was reaped; there is no event for that in v1
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            kill(groups)  # what a warden that was itself killed could not
            time.sleep(0.001)
        else:
            return


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.fsdecode(b"".join(iter(lambda: os.read(fd, _PIECE), b"")))
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV}:  # ENODEV: the group went away while its file was open
            return ""
        raise


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
