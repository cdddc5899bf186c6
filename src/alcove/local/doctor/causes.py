"""Why a kernel refused a step, and the command that changes it: the known causes, recognised from measured facts."""

import errno
from collections.abc import Callable

from msgspec import Struct

from alcove.local.doctor.facts import CAP_SETUID, CAP_SYS_ADMIN, Facts
from alcove.local.doctor.kernels import MINIMUM, version

_REFUSED = (errno.EPERM, errno.EACCES)
_NO_ROOM = (errno.ENOSPC, errno.EUSERS)
#: Ids of one session of root's, and the first of them (alcove.local.store).
SESSION_IDS = 65_536
FIRST_ID = 0x2000_0000
_NAMESPACES = ("userns", "cellns", "netns", "ipcns", "utsns", "pidns", "mountns", "cgroupns")
_MOUNTING = ("mountns", "host_tree", "tree", "root", "devpts", "pivot_root", "proc")
_AS_USER = "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp/alcove-user alcove doctor"
_CONTAINER_OPTIONS = (
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)


class Cause(Struct, frozen=True):
    """A recognised reason: the fact that shows it, and the commands."""

    fact: str
    remedy: str
    alternatives: tuple[str, ...] = ()


class Refusal(Struct, frozen=True):
    """A step of the probe that failed on a host, and its errno."""

    facts: Facts
    step: str
    error: int


def errno_name(number: int) -> str:
    """`EPERM`, or the number."""
    return errno.errorcode.get(number, str(number))


def cause(facts: Facts, step: str, error: int) -> Cause:
    """Find the reason for which `step` of the probe failed with `error`."""
    for recognise in _RECOGNISERS:
        found = recognise(Refusal(facts, step, error))
        if found is not None:
            return found
    return Cause(
        f"no known cause: kernel {facts.kernel}, user {facts.uid}, Seccomp {facts.seccomp_mode}"
        + (f", AppArmor `{facts.apparmor}`" if facts.apparmor else ""),
        "sudo dmesg | tail -20",
    )


def persistent(name: str, value: int) -> str:
    """The command that sets a sysctl now and at every boot."""
    file = "/etc/sysctl.d/60-alcove.conf"
    return f"echo '{name} = {value}' | sudo tee -a {file} && sudo sysctl -p {file}"


def container_run(facts: Facts) -> str:
    """`docker run` so that sessions can be made by this user in the container."""
    if facts.uid == 0:
        return f"docker run {_CONTAINER_OPTIONS} --cap-add SYS_ADMIN IMAGE"
    return f"docker run {_CONTAINER_OPTIONS} IMAGE"


def apparmor_profile(launcher: str) -> str:
    """The command that lets the launcher, and nothing else, use user namespaces on Ubuntu 23.10 and later."""
    lines = f"abi <abi/4.0>,\\nprofile alcove-warden {launcher} flags=(unconfined) {{\\n  userns,\\n}}\\n"
    path = "/etc/apparmor.d/alcove-warden"
    return f"printf '{lines}' | sudo tee {path} && sudo apparmor_parser -r {path}"


def newer_kernel(facts: Facts) -> str:
    """The command that installs a newer kernel on this distribution."""
    if facts.wsl:
        return "wsl.exe --update"
    if "Ubuntu" in facts.distribution:
        return 'sudo apt-get install "linux-generic-hwe-$(. /etc/os-release && echo "$VERSION_ID")"'
    if "Debian" in facts.distribution:
        package = "linux-image-arm64" if facts.machine == "aarch64" else "linux-image-amd64"
        return f'sudo apt-get install -t "$(. /etc/os-release && echo "$VERSION_CODENAME")-backports" {package}'
    return "sudo dnf upgrade kernel"


# What cannot be changed from inside comes first, then what is certain, then what only fits


def _gvisor(at: Refusal) -> Cause | None:
    if not at.facts.gvisor:
        return None
    return Cause(
        "this is gVisor, whose kernel lacks the mount and namespace calls that a session needs",
        "docker run --runtime=runc IMAGE",
    )


def _old_kernel(at: Refusal) -> Cause | None:
    if at.facts.wsl == 1:
        return Cause("WSL 1 is not a Linux kernel", 'wsl.exe --set-version "$WSL_DISTRO_NAME" 2')
    if at.error not in (errno.ENOSYS, errno.EINVAL, errno.E2BIG) or at.facts.release >= MINIMUM:
        return None
    return Cause(
        f"Linux {at.facts.kernel} is older than {version(MINIMUM)}, the first with every call that a session needs",
        newer_kernel(at.facts),
    )


def _no_room(at: Refusal) -> Cause | None:
    if at.error not in _NO_ROOM or at.step not in _NAMESPACES:
        return None
    name = f"user.max_{_kind(at.step)}_namespaces"
    fact = f"{name} = {at.facts.sysctls.get(name, 0)}: this user may have no further one"
    return Cause(fact, persistent(name, 65_536))


def _kind(step: str) -> str:
    return {"mountns": "mnt", "userns": "user", "cellns": "user"}.get(step, step.removesuffix("ns"))


def _debian_switch(at: Refusal) -> Cause | None:
    name = "kernel.unprivileged_userns_clone"
    if at.step != "userns" or at.error not in _REFUSED or at.facts.sysctls.get(name) != 0:
        return None
    return Cause(f"{name} = 0: Debian's switch keeps user namespaces from plain users", persistent(name, 1))


def _few_ids(at: Refusal) -> Cause | None:
    if (
        at.step not in ("uid_map", "gid_map", "host_tree")
        or at.facts.uid != 0
        or at.facts.ids >= FIRST_ID + SESSION_IDS
    ):
        return None
    return Cause(
        f"this root's user namespace has {at.facts.ids} ids; a session of root's takes {SESSION_IDS} of its own",
        _AS_USER,
        ("docker run --userns=host IMAGE",),
    )


def _powerless_root(at: Refusal) -> Cause | None:
    if at.facts.uid != 0 or at.error not in _REFUSED:
        return None
    lacks = {"host_tree": (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), "uid_map": (CAP_SETUID, "CAP_SETUID")}.get(at.step)
    if lacks is None or at.facts.has(lacks[0]):
        return None
    return Cause(
        f"this root has no {lacks[1]}, as in a container: less than a plain user of the same container needs",
        f"docker run {_CONTAINER_OPTIONS} --user 1000:1000 IMAGE",
        (
            container_run(at.facts),
            "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp/alcove-user alcove doctor",
        ),
    )


def _masked_proc(at: Refusal) -> Cause | None:
    if at.step != "proc" or at.error not in _REFUSED:
        return None
    if not at.facts.proc_submounts:
        return Cause("no /proc without restrictions is mounted here to take after", "sudo mount -t proc proc /proc")
    shown = ", ".join(at.facts.proc_submounts[:3])
    return Cause(
        f"{len(at.facts.proc_submounts)} mounts lie over /proc here ({shown} …); the kernel then gives no fresh one",
        "docker run --security-opt systempaths=unconfined IMAGE",
        ("podman run --security-opt unmask=ALL IMAGE", "sudo umount " + " ".join(at.facts.proc_submounts)),
    )


def _container_seccomp(at: Refusal) -> Cause | None:
    refused = at.error in _REFUSED or (at.error == errno.ENOSYS and at.facts.release >= MINIMUM)
    if not refused or at.facts.seccomp_mode != 2:
        return None
    where = at.facts.container or "an outer sandbox or container"
    return Cause(
        f"a seccomp filter of {where} is in force (Seccomp: 2 in /proc/self/status), as Docker's default is",
        container_run(at.facts),
        ("docker run --privileged IMAGE",),
    )


def _container_apparmor(at: Refusal) -> Cause | None:
    confined = at.facts.apparmor and not at.facts.apparmor.startswith("unconfined")
    if not confined or at.error not in _REFUSED or at.step not in _MOUNTING:
        return None
    return Cause(
        f"AppArmor confines this process by `{at.facts.apparmor}`, which refuses mounts",
        container_run(at.facts) if at.facts.container else f"sudo aa-disable {at.facts.apparmor.split()[0]}",
    )


def _ubuntu_apparmor(at: Refusal) -> Cause | None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    if at.error not in _REFUSED or at.facts.sysctls.get(name) != 1 or at.facts.has(CAP_SYS_ADMIN):
        return None
    return Cause(
        f"{name} = 1: Ubuntu's AppArmor takes every capability from a plain user's namespace",
        apparmor_profile(at.facts.launcher),
        (persistent(name, 0), "sudo alcove doctor"),
    )


def _chroot(at: Refusal) -> Cause | None:
    if not at.facts.chrooted or at.error not in (*_REFUSED, errno.EINVAL):
        return None
    return Cause(
        "this process lives in a chroot, where the kernel makes no user namespace",
        "sudo unshare --mount sh -c 'mount --rbind DIR DIR && cd DIR && pivot_root . . && umount -l . && exec sh'",
    )


_RECOGNISERS: tuple[Callable[[Refusal], Cause | None], ...] = (
    _gvisor,
    _old_kernel,
    _no_room,
    _debian_switch,
    _few_ids,
    _powerless_root,
    _masked_proc,
    _ubuntu_apparmor,
    _container_apparmor,
    _container_seccomp,
    _chroot,
)
