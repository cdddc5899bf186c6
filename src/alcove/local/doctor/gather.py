"""Measuring a host: reads what the kernel tells, tries what it does not. Judges nothing."""

import os
import resource
import secrets
import subprocess
from contextlib import suppress

from alcove.contract import LifecycleError, SandboxError
from alcove.local import host, native
from alcove.local.cell import cgroups
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import disk
from alcove.local.doctor.facts import Cgroups, Facts, Store
from alcove.local.doctor.trial import attempt
from alcove.local.store import Store as SessionStore
from alcove.local.store import default_root

_SYSCTLS = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "kernel.pid_max",
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_pid_namespaces",
    "user.max_net_namespaces",
    "user.max_ipc_namespaces",
    "user.max_uts_namespaces",
    "user.max_cgroup_namespaces",
)
# The kernel keeps these directories empty, so that a mount there hides nothing
_EMPTY_IN_PROC = ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd")
_GVISOR_BUILD = "#1 SMP Sun Jan 10 15:06:54 PST 2016"


def gather(config: LocalSandboxConfig) -> Facts:
    """Measure everything; nothing of it stays but the store's directory."""
    mounts = _mounts()
    store = _store(config, mounts)
    launcher, launcher_error, probed = _probe(config, store)
    status = _status()
    machine = os.uname()
    return Facts(
        kernel=machine.release,
        machine=machine.machine,
        distribution=_distribution(),
        uid=os.geteuid(),
        container=_container(),
        wsl=_wsl(machine.release),
        gvisor=machine.version == _GVISOR_BUILD,
        chrooted=not any(point == "/" for point, _, _ in mounts),
        systemd=os.path.isdir("/run/systemd/system"),
        launcher=launcher,
        launcher_error=launcher_error,
        native=probed,
        sysctls={name: value for name in _SYSCTLS if (value := _sysctl(name)) is not None},
        seccomp_mode=int(status.get("Seccomp", "0")),
        capabilities=int(status.get("CapEff", "0"), 16),
        apparmor=_read("/proc/self/attr/apparmor/current") or _read("/proc/self/attr/current"),
        ids=sum(int(line.split()[2]) for line in _read("/proc/self/uid_map").splitlines()),
        proc_submounts=tuple(point for point, _, _ in mounts if _hides(point)),
        store=store,
        cgroups=_cgroups(mounts),
        open_files=_hard(resource.RLIMIT_NOFILE),
        processes=_hard(resource.RLIMIT_NPROC),
        default_pids=config.default_pids,
        default_open_files=config.default_open_files,
        no_disk=disk.refusal(root=os.geteuid() == 0),
        trial=None if launcher_error else attempt(config, store),
    )


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().rstrip("\0\n")
    except OSError:
        return ""


def _sysctl(name: str) -> int | None:
    text = _read(f"/proc/sys/{name.replace('.', '/')}")
    return int(text) if text.isdigit() else None


def _status() -> dict[str, str]:
    pairs = (line.partition(":") for line in _read("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _hard(limit: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return 1 << 62 if hard == resource.RLIM_INFINITY else hard


def _hides(point: str) -> bool:
    return point.startswith("/proc/") and point not in _EMPTY_IN_PROC


def _mounts() -> list[tuple[str, str, frozenset[str]]]:
    """Mount point, type and options of every mount that is seen here, in the order in which they were made."""
    found = []
    for line in _read("/proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields = mount.split(" ")
        kind, _, flags = system.split(" ", 2)
        found.append((fields[4], kind, frozenset([*fields[5].split(","), *flags.split(",")])))
    return found


def _distribution() -> str:
    for line in _read("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    return ""


def _container() -> str:
    """What kind of container this is, by the marks that engines leave; empty outside of one."""
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    return _read("/run/systemd/container") or os.environ.get("container", "")  # noqa: SIM112 - systemd's own spelling


def _wsl(release: str) -> int:
    if "microsoft" not in release.lower():
        return 0
    return 2 if "microsoft-standard" in release or "WSL2" in release else 1


def _probe(config: LocalSandboxConfig, store: Store) -> tuple[str, str, dict[str, int]]:
    try:
        launcher = config.native or str(native.find())
    except LifecycleError as error:
        return native.NAME, str(error), {}
    place = "/tmp" if store.error else store.path
    try:
        lines = (line.split(" ", 1) for line in host.probe(launcher, place).splitlines())
        return launcher, "", {name: int(value) for name, value in lines}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return launcher, str(error), {}


def _store(config: LocalSandboxConfig, mounts: list[tuple[str, str, frozenset[str]]]) -> Store:
    path = config.root_dir or default_root()
    try:
        SessionStore(path).close()
        room = os.statvfs(path)
    except (SandboxError, OSError) as error:
        return Store(path=path, error=str(error))
    real = os.path.realpath(path)
    _, kind, options = max(
        (mount for mount in mounts if mount[0] == "/" or f"{real}/".startswith(f"{mount[0]}/")),
        key=lambda mount: len(mount[0]),
        default=("/", "unknown", frozenset()),
    )
    # a file system without a count of its own (btrfs) says 0 of 0
    inodes = room.f_favail if room.f_files else 1 << 62
    return Store(path=path, kind=kind, options=options, free_bytes=room.f_bavail * room.f_frsize, free_inodes=inodes)


def _cgroups(mounts: list[tuple[str, str, frozenset[str]]]) -> Cgroups:
    hierarchies = cgroups.detect()
    groups = [mount for mount in mounts if mount[1] in ("cgroup", "cgroup2")]
    offered = frozenset(
        name for point, kind, _ in groups if kind == "cgroup2" for name in _read(f"{point}/cgroup.controllers").split()
    )
    name = f"doctor-{os.getpid()}-{secrets.token_hex(4)}"
    limits = {
        "memory": cgroups.Limits(memory=64 << 20),
        "cpu": cgroups.Limits(cpus=1),
        "pids": cgroups.Limits(pids=64),
    }
    return Cgroups(
        controllers={
            controller: "cgroup-v2" if controller in hierarchies.unified_controllers else "cgroup-v1"
            for controller, limit in limits.items()
            if hierarchies.can(controller) and _can_limit(hierarchies, f"{name}-{controller}", limit)
        },
        unified=hierarchies.unified,
        kill=_has_kill(hierarchies, name),
        offered=offered,
        mounted=bool(groups),
        readonly=bool(groups) and all("ro" in options for _, _, options in groups),
    )


def _can_limit(hierarchies: cgroups.Hierarchies, name: str, limits: cgroups.Limits) -> bool:
    try:
        groups = cgroups.create(hierarchies, name, limits)
    except OSError:
        return False
    cgroups.remove(groups)
    return True


def _has_kill(hierarchies: cgroups.Hierarchies, name: str) -> bool:
    with suppress(OSError):
        groups = cgroups.create(hierarchies, name, cgroups.Limits())
        try:
            return groups.unified is not None and os.access(f"{groups.unified}/cgroup.kill", os.W_OK)
        finally:
            cgroups.remove(groups)
    return False
