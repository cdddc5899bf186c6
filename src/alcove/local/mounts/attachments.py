"""What may be mounted into a session, and what not: decided on an open descriptor of the source."""

import os
import re
import stat

from msgspec import Struct

from alcove.contract import FilesystemAccess, FilesystemMount, InvalidRequest, SandboxIoError
from alcove.contract.rules import collapsed_mount_target, normalized_mount_target

#: Where nothing can be mounted: the session would lose what holds it together.
_RESERVED_TARGETS = ("/proc", "/sys", "/dev", "/run")
_KERNEL_PLACES = ("/proc", "/sys", "/dev")
_KERNEL_KINDS = frozenset(
    "proc sysfs devtmpfs devpts cgroup cgroup2 bpf binfmt_misc configfs debugfs efivarfs fusectl mqueue nsfs pstore "
    "rpc_pipefs securityfs selinuxfs tracefs".split()
)


class Source(Struct, frozen=True):
    """An open source: the descriptor is the caller's to close."""

    fd: int
    path: str
    device: int
    inode: int
    uid: int
    gid: int
    is_file: bool


def check_target(target: str) -> str:
    """Return the target, normalized.

    Raises:
        InvalidRequest: it is `/`, or within a place that is the session's own.
    """
    normalized = normalized_mount_target(target)
    collapsed = collapsed_mount_target(normalized)
    for reserved in _RESERVED_TARGETS:
        if collapsed == reserved or collapsed.startswith(f"{reserved}/"):
            raise InvalidRequest(f"mount target `{target}` lies in {reserved}, which is the session's own")
    return normalized


def open_source(mount: FilesystemMount, store: str, *, allow_root_owned: bool, set_id: bool) -> Source:
    """Open a host path that a session is to see.

    Raises:
        InvalidRequest: it is a place that no session may see, or may not write to.
        SandboxIoError: it is not there, or not ours to open.
    """
    try:
        fd = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxIoError(f"mount source `{mount.source}`: {error.strerror}") from None
    try:
        return _checked(fd, mount, store, allow_root_owned=allow_root_owned, set_id=set_id)
    except BaseException:
        os.close(fd)
        raise


def _checked(fd: int, mount: FilesystemMount, store: str, *, allow_root_owned: bool, set_id: bool) -> Source:
    found = os.fstat(fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    name = f"mount source `{mount.source}`"
    is_file = stat.S_ISREG(found.st_mode)
    if not is_file and not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(f"{name} is neither a directory nor a regular file; sockets and devices stay outside")
    if path == "/":
        raise InvalidRequest(f"{name} is the host's whole root; name the directories that the session needs")
    for place in _KERNEL_PLACES:
        if path == place or path.startswith(f"{place}/"):
            raise InvalidRequest(f"{name} lies in {place}, which no session may see")
    if kind := _kernel_file_system(fd, path):
        raise InvalidRequest(f"{name} is or contains a mount of {kind}, which no session may see")
    real_store = os.path.realpath(store)
    if path == real_store or path.startswith(f"{real_store}/") or real_store.startswith(f"{path}/"):
        raise InvalidRequest(
            f"{name} contains or lies in Alcove's store {real_store}; choose a directory apart from it"
        )
    if mount.copy_on_write:
        _check_layerable(name, path, is_file=is_file)
    if mount.access is FilesystemAccess.READ_WRITE:
        _check_writable(name, found.st_uid, allow_root_owned=allow_root_owned, set_id=set_id)
    return Source(
        fd=fd,
        path=path,
        device=found.st_dev,
        inode=found.st_ino,
        uid=found.st_uid,
        gid=found.st_gid,
        is_file=is_file,
    )


def _kernel_file_system(fd: int, path: str) -> str | None:
    """The type of a file system that is the kernel's own, at or beneath an open source; wherever it is mounted."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        mount_id = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            parts = fields.split(" ")
            kind = rest.split(" ", 1)[0]
            if kind in _KERNEL_KINDS and (parts[0] == mount_id or parts[4].startswith(f"{path}/")):
                return kind
    return None


def _check_layerable(name: str, path: str, *, is_file: bool) -> None:
    if is_file:
        raise InvalidRequest(f"{name} is a file, and copy_on_write is for directories: mount the one that it lies in")
    refuse_mounts_beneath(name, path)


def refuse_mounts_beneath(name: str, path: str) -> None:
    """Refuse a directory for copy-on-write of which the guest would not see everything.

    An overlay shows its lower directory without the mounts in it: what is there on the host would be gone inside.

    Raises:
        InvalidRequest: something is mounted in it.
    """
    with open("/proc/self/mountinfo") as file:
        points = [_unescaped(line.split(" ")[4]) for line in file]
    if beneath := [point for point in points if point.startswith(f"{path}/")]:
        raise InvalidRequest(
            f"{name} has mounts in it ({beneath[0]}), which copy_on_write does not reach across: mount each by itself"
        )


def _unescaped(field: str) -> str:
    r"""A path of mountinfo, in which a blank is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _check_writable(name: str, uid: int, *, allow_root_owned: bool, set_id: bool) -> None:
    if set_id:
        raise InvalidRequest(f"{name} cannot be read_write: this session may make set-id files (`set_id`)")
    if uid == 0 and not allow_root_owned:
        raise InvalidRequest(
            f"{name} belongs to root; writing to it from a session needs LocalSandboxConfig.allow_root_owned "
            "(--allow-root-owned), or attach it read_only"
        )
