"""Why a kernel refused a step, and the command that changes it: the known causes, recognised from measured facts."""

import errno
import os
from collections.abc import Callable

from msgspec import Struct

from alcove.local.doctor.facts import CAP_SETUID, CAP_SYS_ADMIN, Facts
from alcove.local.doctor.kernels import MINIMUM, version

_REFUSED = (errno.EPERM, errno.EACCES)
_NO_ROOM = (errno.ENOSPC, errno.EUSERS)
#: Ids of one session of root's, and the first of them (alcove.local.store).
SESSION_IDS = 65_536
FIRST_ID = 0x2000_0000
_CREATION = ("userns",)
_CONTAINER_OPTIONS = (
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)


class Cause(Struct, frozen=True):
    """A recognised reason: the fact that shows it, and the commands."""

    fact: str
    remedy: str
    alternatives: tuple[str, ...] = ()


def errno_name(number: int) -> str:
    """`EPERM`, or the number."""
    return errno.errorcode.get(number, str(number))


def cause(facts: Facts, step: str, error: int) -> Cause:
    """Find the reason for which `step` of the probe failed with `error`."""
    for recognise in _RECOGNISERS:
        found = recognise(facts, step, error)
        if found is not None:
            return found
    return Cause(
        f"no known cause: kernel {facts.kernel}, user {facts.uid}, Seccomp {facts.seccomp_mode}"
        + (f", AppArmor `{facts.apparmor}`" if facts.apparmor else ""),
        "dmesg | tail -20",
    )


def persistent(name: str, value: int) -> str:
    """The command that sets a sysctl now and at every boot."""
    return (
        f"echo '{name} = {value}' | sudo tee /etc/sysctl.d/60-alcove.conf && sudo sysctl -p /etc/sysctl.d/60-alcove.conf"
    )


def container_run(facts: Facts) -> str:
    """`docker run` so that sessions can be made by this user in the container."""
    if facts.uid == 0:
        return f"docker run {_CONTAINER_OPTIONS} --cap-add SYS_ADMIN --cap-add NET_ADMIN IMAGE"
    return f"docker run {_CONTAINER_OPTIONS} IMAGE"


def apparmor_profile(launcher: str) -> str:
    """The command that lets the launcher, and nothing else, use user namespaces on Ubuntu 23.10 and later."""
    lines = f"abi <abi/4.0>,\\nprofile alcove-warden {launcher} flags=(unconfined) {{\\n  userns,\\n}}\\n"
    path = "/etc/apparmor.d/alcove-warden"
    return f"printf '{lines}' | sudo tee {path} && sudo apparmor_parser -r {path}"


# What cannot be changed from inside comes first, then what is certain, then what only fits


def _gvisor(facts: Facts, step: str, error: int) -> Cause | None:
    if not facts.gvisor:
        return None
    return Cause(
        "this is gVisor, whose kernel lacks the mount and namespace calls that a session needs",
        "docker run --runtime=runc IMAGE",
    )


def _old_kernel(facts: Facts, step: str, error: int) -> Cause | None:
    if facts.wsl == 1:
        return Cause("WSL 1 is not a Linux kernel", "wsl.exe --set-version \"$WSL_DISTRO_NAME\" 2")
    if error not in (errno.ENOSYS, errno.EINVAL, errno.E2BIG) or facts.release >= MINIMUM:
        return None
    return Cause(
        f"Linux {facts.kernel} is older than {version(MINIMUM)}, the first with every call that a session needs",
        "wsl.exe --update" if facts.wsl else "sudo apt-get install linux-image-generic || sudo apt-get full-upgrade",
    )


def _no_user_namespaces(facts: Facts, step: str, error: int) -> Cause | None:
    name = "user.max_user_namespaces" if step in ("userns", "cellns") else f"user.max_{_kind(step)}_namespaces"
    if error not in _NO_ROOM or step not in ("userns", "cellns", "netns", "ipcns", "utsns", "pidns", "mountns", "cgroupns"):
        return None
    return Cause(f"{name} = {facts.sysctls.get(name, 0)}: this user may have no further one", persistent(name, 65_536))


def _kind(step: str) -> str:
    return {"mountns": "mnt"}.get(step, step.removesuffix("ns"))


def _debian_switch(facts: Facts, step: str, error: int) -> Cause | None:
    name = "kernel.unprivileged_userns_clone"
    if step not in _CREATION or error not in _REFUSED or facts.sysctls.get(name) != 0:
        return None
    return Cause(f"{name} = 0: Debian's switch keeps user namespaces from plain users", persistent(name, 1))


def _few_ids(facts: Facts, step: str, error: int) -> Cause | None:
    if step not in ("uid_map", "gid_map") or facts.uid != 0 or facts.ids >= FIRST_ID + SESSION_IDS:
        return None
    return Cause(
        f"this root lives in a user namespace of {facts.ids} ids, and a session of root's takes {SESSION_IDS} of its own",
        "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp/alcove-user alcove doctor",
        ("docker run --userns=host IMAGE",),
    )


def _powerless_root(facts: Facts, step: str, error: int) -> Cause | None:
    if facts.uid != 0 or error not in _REFUSED:
        return None
    lacks = {"host_tree": (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), "uid_map": (CAP_SETUID, "CAP_SETUID")}.get(step)
    if lacks is None or facts.has(lacks[0]):
        return None
    return Cause(
        f"this root has no {lacks[1]}, as in a container: less than a plain user of the same container needs",
        f"docker run {_CONTAINER_OPTIONS} --user 1000:1000 IMAGE",
        (container_run(facts), "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp/alcove-user alcove doctor"),
    )


def _masked_proc(facts: Facts, step: str, error: int) -> Cause | None:
    if step != "proc" or error not in _REFUSED:
        return None
    if not facts.proc_submounts:
        return Cause("no /proc without restrictions is mounted here to take after", "sudo mount -t proc proc /proc")
    shown = ", ".join(facts.proc_submounts[:3])
    return Cause(
        f"{len(facts.proc_submounts)} mounts lie over /proc here ({shown} …); the kernel then gives no fresh one",
        "docker run --security-opt systempaths=unconfined IMAGE",
        ("podman run --security-opt unmask=ALL IMAGE", "sudo umount " + " ".join(facts.proc_submounts)),
    )


def _container_seccomp(facts: Facts, step: str, error: int) -> Cause | None:
    refused = error in _REFUSED or (error == errno.ENOSYS and facts.release >= MINIMUM)
    if not refused or facts.seccomp_mode != 2 or (facts.uid == 0 and facts.has(CAP_SYS_ADMIN) and step == "userns"):
        return None
    where = facts.container or "an outer sandbox or container"
    return Cause(
        f"a seccomp filter of {where} is in force (Seccomp: 2 in /proc/self/status), as Docker's default is",
        container_run(facts),
        ("docker run --privileged IMAGE", "podman run --security-opt unmask=ALL IMAGE"),
    )


def _container_apparmor(facts: Facts, step: str, error: int) -> Cause | None:
    if error not in _REFUSED or not facts.apparmor or facts.apparmor.startswith("unconfined"):
        return None
    return Cause(
        f"AppArmor confines this process by `{facts.apparmor}`, which refuses mounts",
        container_run(facts) if facts.container else f"sudo aa-disable {facts.apparmor.split()[0]}",
    )


def _ubuntu_apparmor(facts: Facts, step: str, error: int) -> Cause | None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    if error not in _REFUSED or facts.sysctls.get(name) != 1 or facts.has(CAP_SYS_ADMIN):
        return None
    return Cause(
        f"{name} = 1: Ubuntu's AppArmor takes every capability from a plain user's namespace",
        apparmor_profile(facts.launcher),
        (persistent(name, 0), "sudo alcove doctor"),
    )


def _chroot(facts: Facts, step: str, error: int) -> Cause | None:
    if not facts.chrooted or error not in (*_REFUSED, errno.EINVAL):
        return None
    return Cause(
        "this process lives in a chroot, where the kernel makes no user namespace",
        f"sudo unshare --mount --propagation private sh -c 'mount --rbind {os.curdir} /mnt && cd /mnt && pivot_root . .'",
    )


_RECOGNISERS: tuple[Callable[[Facts, str, int], Cause | None], ...] = (
    _gvisor,
    _old_kernel,
    _no_user_namespaces,
    _debian_switch,
    _few_ids,
    _powerless_root,
    _masked_proc,
    _ubuntu_apparmor,
    _container_apparmor,
    _container_seccomp,
    _chroot,
)
