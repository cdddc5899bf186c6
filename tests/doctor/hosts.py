"""Kinds of host as facts: what `gather` measures on each, written down."""

import errno

from alcove.local.doctor.facts import Cgroups, Facts, Store, Trial

STEPS = (
    "clone3 clone_into_cgroup pidfd openat2 close_range no_new_privs seccomp landlock_enforce host_tree userns uid_map "
    "gid_map set_ids mountns netns loopback ipcns utsns tree root overlay devpts pidns proc pivot_root cgroupns cellns"
).split()
_CELL = STEPS[STEPS.index("uid_map") :]
DOCKER_CAPABILITIES = 0xA80425FB
FINE = Trial(isolation="userns,…", limits="pids=1024:rlimit", milliseconds=5)


def probe(landlock: int = 7, idmap: int = 0, **refused: int) -> dict[str, int]:
    """What the launcher's probe says; a refused `userns` keeps everything within it from being tried."""
    found = dict.fromkeys(STEPS, 0) | {"landlock": landlock, "idmap": idmap} | refused
    if found["userns"]:
        found |= dict.fromkeys(_CELL, -1)
    if not landlock:
        found["landlock_enforce"] = refused.get("landlock_enforce", errno.ENOSYS)
    return found


USER = {"uid": 1000, "capabilities": 0, "native": probe(host_tree=-1), "trial": FINE}
V1 = Cgroups(controllers=dict.fromkeys(("memory", "cpu", "pids"), "cgroup-v1"))
V2 = Cgroups(
    controllers=dict.fromkeys(("memory", "cpu", "pids"), "cgroup-v2"),
    unified="/sys/fs/cgroup",
    kill=True,
    offered=frozenset({"memory", "cpu", "pids"}),
)
UNDELEGATED = Cgroups(offered=frozenset({"memory", "cpu", "pids"}))

DEBIAN_12_ROOT = Facts(
    kernel="6.1.0-31-amd64",
    distribution="Debian GNU/Linux 12 (bookworm)",
    systemd=True,
    native=probe(landlock=2, idmap=1),
    cgroups=V2,
    sysctls={"kernel.unprivileged_userns_clone": 1, "kernel.pid_max": 4_194_304},
    trial=FINE,
)
DEBIAN_12_USER = Facts(
    kernel="6.1.0-31-amd64",
    distribution="Debian GNU/Linux 12 (bookworm)",
    systemd=True,
    uid=1000,
    capabilities=0,
    native=probe(landlock=2, host_tree=-1),
    cgroups=UNDELEGATED,
    sysctls={"kernel.unprivileged_userns_clone": 1, "kernel.pid_max": 4_194_304},
    trial=FINE,
)
DEBIAN_10_USER = Facts(
    kernel="5.14.0-0.bpo.2-amd64",
    distribution="Debian GNU/Linux 10 (buster)",
    uid=1000,
    capabilities=0,
    native=probe(landlock=1, host_tree=-1, userns=errno.EPERM),
    sysctls={"kernel.unprivileged_userns_clone": 0},
)
UBUNTU_2204_USER = Facts(
    kernel="5.15.0-130-generic",
    distribution="Ubuntu 22.04.5 LTS",
    systemd=True,
    uid=1000,
    capabilities=0,
    native=probe(landlock=1, host_tree=-1),
    cgroups=UNDELEGATED,
    trial=FINE,
)
UBUNTU_2404_USER = Facts(
    kernel="6.8.0-51-generic",
    distribution="Ubuntu 24.04.1 LTS",
    systemd=True,
    uid=1000,
    capabilities=0,
    apparmor="unconfined",
    native=probe(
        landlock=4,
        host_tree=-1,
        mountns=errno.EACCES,
        loopback=errno.EPERM,
        tree=-1,
        root=-1,
        proc=-1,
        pidns=errno.EPERM,
    ),
    sysctls={"kernel.apparmor_restrict_unprivileged_userns": 1},
    cgroups=UNDELEGATED,
)
UBUNTU_2404_ROOT = Facts(
    kernel="6.8.0-51-generic",
    distribution="Ubuntu 24.04.1 LTS",
    systemd=True,
    apparmor="unconfined",
    native=probe(landlock=4, idmap=1),
    sysctls={"kernel.apparmor_restrict_unprivileged_userns": 1},
    cgroups=V2,
    trial=FINE,
)
DOCKER_ROOT = Facts(
    kernel="6.8.0-51-generic",
    distribution="Debian GNU/Linux 12 (bookworm)",
    container="docker",
    apparmor="docker-default (enforce)",
    seccomp_mode=2,
    capabilities=DOCKER_CAPABILITIES,
    native=probe(landlock=4, clone3=errno.ENOSYS, host_tree=errno.EPERM, userns=errno.EPERM),
    proc_submounts=("/proc/bus", "/proc/kcore", "/proc/keys"),
    cgroups=Cgroups(readonly=True, offered=frozenset({"memory", "cpu", "pids"})),
    store=Store(kind="overlay"),
)
DOCKER_UNCONFINED_ROOT = Facts(
    kernel="6.8.0-51-generic",
    container="docker",
    capabilities=DOCKER_CAPABILITIES,
    native=probe(landlock=4, host_tree=errno.EPERM, proc=errno.EPERM),
    proc_submounts=("/proc/bus", "/proc/kcore", "/proc/keys"),
    cgroups=Cgroups(readonly=True),
    store=Store(kind="overlay"),
)
DOCKER_MASKED_USER = Facts(
    kernel="6.8.0-51-generic",
    container="docker",
    uid=1000,
    capabilities=0,
    native=probe(landlock=4, host_tree=-1, proc=errno.EPERM),
    proc_submounts=("/proc/bus", "/proc/kcore"),
    cgroups=Cgroups(readonly=True),
)
DOCKER_APPARMOR_USER = Facts(
    kernel="6.8.0-51-generic",
    container="docker",
    apparmor="docker-default (enforce)",
    uid=1000,
    capabilities=0,
    native=probe(landlock=4, host_tree=-1, mountns=errno.EACCES),
)
DOCKER_PRIVILEGED = Facts(
    kernel="6.8.0-51-generic",
    container="docker",
    native=probe(landlock=4),
    store=Store(kind="overlay"),
    cgroups=V1,
    trial=FINE,
)
PODMAN_ROOTLESS_ROOT = Facts(
    kernel="6.8.0-51-generic",
    container="podman",
    ids=65_536,
    native=probe(landlock=4, host_tree=0, uid_map=errno.EPERM, gid_map=errno.EPERM),
)
NO_USER_NAMESPACES = Facts(
    kernel="6.8.0-51-generic",
    uid=1000,
    capabilities=0,
    native=probe(userns=errno.ENOSPC, host_tree=-1),
    sysctls={"user.max_user_namespaces": 0},
)
NOT_COMPILED_IN = Facts(kernel="6.8.0-51-generic", uid=1000, capabilities=0, native=probe(userns=errno.EINVAL))
OLD = Facts(
    kernel="5.4.0-200-generic",
    distribution="Ubuntu 20.04.6 LTS",
    native=probe(landlock=0, openat2=errno.ENOSYS, close_range=errno.ENOSYS, host_tree=errno.ENOSYS, tree=errno.ENOSYS),
)
WSL_1 = Facts(
    kernel="4.4.0-19041-Microsoft",
    wsl=1,
    native=probe(landlock=0, clone3=errno.ENOSYS, pidfd=errno.ENOSYS, openat2=errno.ENOSYS, userns=errno.EINVAL),
)
WSL_2 = Facts(
    kernel="6.6.87.2-microsoft-standard-WSL2",
    distribution="Ubuntu 24.04.1 LTS",
    wsl=2,
    uid=1000,
    capabilities=0,
    native=probe(landlock=3, host_tree=-1),
    cgroups=UNDELEGATED,
    trial=FINE,
)
GVISOR = Facts(kernel="4.4.0", gvisor=True, native=probe(landlock=0, clone3=errno.ENOSYS, openat2=errno.ENOSYS))
CHROOT = Facts(kernel="6.1.0-31-amd64", uid=1000, capabilities=0, chrooted=True, native=probe(userns=errno.EPERM))
LANDLOCK_OFF = Facts(
    kernel="6.12.0", native=probe(landlock=0, landlock_enforce=errno.EOPNOTSUPP, idmap=1), cgroups=V2, trial=FINE
)
