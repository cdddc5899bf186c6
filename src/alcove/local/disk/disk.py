"""A session's own disk: an ext4 image of the size that `disk_mb` says, which everything that its guest writes lies in.

The image is sparse: it takes what was ever in use at once, and never more than its size. The launcher mounts it where
only it can see it; the host reaches what is in it by way of a mount of its own, at the same time too.
"""

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from alcove.contract import LifecycleError
from alcove.local.disk import loopback
from alcove.local.disk.detached import mounted
from alcove.local.disk.loopback import Device

#: In the session's directory: the image, and the place where its launcher has it mounted, empty for everybody else.
IMAGE = "disk.ext4"
PLACE = "disk"
#: In the store: empty images, one for each size that was asked for.
EMPTY = "disks"
#: What is not in use takes no room; see `Disk`.
OPTIONS = {"noinit_itable": None, "errors": "remount-ro"}
#: ext4 in fewer blocks is all metadata.
LEAST_MB = 2

_MIB = 1 << 20
_MAKE = "mkfs.ext4"
_CHECK = "e2fsck"
_PATH = f"{os.defpath}:/usr/sbin:/sbin"
# No journal: it would take room from the guest, and after a power cut the image is checked instead. An inode for each
# 8 KiB, for trees of small files. Nothing reserved for a root that no session has.
_FORMAT = ("-q", "-F", "-b", "4096", "-m", "0", "-i", "8192", "-O", "^has_journal,^resize_inode")
_EXTENDED = ("-E", "lazy_itable_init=1,nodiscard,root_owner=0:0")
_STATE_AT, _CLEAN = 1024 + 0x3A, 1  # ext4_super_block.s_state, EXT4_VALID_FS
_WITHIN_S = 300
_BEYOND_REPAIR = 4  # of e2fsck(8): errors were left


def refusal(*, root: bool) -> str:
    """Return why no session can have a disk here, or nothing."""
    if not root:
        return "loop devices are root's: run as root"
    if not os.path.exists(loopback.CONTROL):
        return f"there is no {loopback.CONTROL}: load the module (`modprobe loop`), or give the container the device"
    import shutil

    missing = [name for name in (_MAKE, _CHECK) if shutil.which(name, path=_PATH) is None]
    return f"{' and '.join(missing)} not found: install e2fsprogs" if missing else ""


class Disk:
    """The disk of a session, attached; `fresh`: it was made just now, and is empty."""

    def __init__(self, device: Device, *, fresh: bool) -> None:
        self._device = device
        self.device = device.path
        self.fresh = fresh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; it stays attached as long as it is mounted."""
        self._device.close()

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Yield a path to what is in it; it may be mounted elsewhere meanwhile.

        Raises:
            OSError: it cannot be mounted.
        """
        with mounted("ext4", {"source": self.device, **OPTIONS}) as path:
            yield path


def attach(store: str, directory: str, megabytes: int) -> Disk:
    """Attach the disk of a session in `directory`, made with that where there is none yet.

    Raises:
        OSError: there is no room, or no loop device.
        LifecycleError: its image is damaged beyond repair, or a program that it takes fails.
    """
    fresh = True
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        fresh = False
    image = f"{directory}/{IMAGE}"
    if fresh:
        os.mkdir(f"{directory}/{PLACE}", 0o700)
        _copy(_empty(store, megabytes), image)
    return Disk(loopback.attach(image, _check), fresh=fresh)


def _empty(store: str, megabytes: int) -> str:
    """The empty image of a size: to make one takes many times longer than to copy the few blocks that are in it."""
    path = f"{store}/{EMPTY}/{megabytes}.ext4"
    if not os.path.exists(path):
        made = f"{path}.{secrets.token_hex(4)}"
        try:
            with open(made, "xb") as file:
                file.truncate(megabytes * _MIB)
            _run(_MAKE, *_FORMAT, *_EXTENDED, made)
            with open(made, "rb") as file:
                os.fsync(file.fileno())  # after a power cut, the name must not stand for less
            os.rename(made, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(made)
            raise
    return path


def _copy(source: str, target: str) -> None:
    from alcove.state.contents import Contents

    with open(source, "rb", buffering=0) as reading, open(target, "xb", buffering=0) as writing:
        size = os.fstat(reading.fileno()).st_size
        Contents(reflink=True, progress=None).copy(reading.fileno(), writing.fileno(), size, sparse=True)


def _check(image: str, locked: int) -> None:
    """Repair an image that was not unmounted: after a power cut, or a reset."""
    state = int.from_bytes(os.pread(locked, 2, _STATE_AT), "little")
    if not state & _CLEAN:
        # with the lock: killed, we leave an e2fsck that goes on, and nobody is to mount what it repairs
        _run(_CHECK, "-f", "-y", image, most=_BEYOND_REPAIR - 1, held=(locked,))


def _run(program: str, *arguments: str, most: int = 0, held: Collection[int] = ()) -> None:
    import shutil
    import subprocess

    command = [shutil.which(program, path=_PATH) or program, *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_WITHIN_S, check=False, pass_fds=held
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LifecycleError(f"{program} does not run: {error}") from None
    if not 0 <= done.returncode <= most:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise LifecycleError(f"{program} failed with exit code {done.returncode}: {said}")
