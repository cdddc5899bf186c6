"""Where the changes of a copy-on-write mount go, and what the host's directory was like when the session began with it.

SESSION/cow-XXXXXXXX/upper    the overlay's upper directory
SESSION/cow-XXXXXXXX/work     the kernel's own
SESSION/cow-XXXXXXXX/base     `Base`; no guest comes here
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msgspec import MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from alcove.contract import InvalidRequest, LifecycleError, SandboxIoError
from alcove.local.mounts.attachments import refuse_mounts_beneath
from alcove.local.records import Attached
from alcove.state.fingerprints import Fingerprints, fingerprints

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = "cow-"


class Base(Struct, frozen=True):
    """The host's directory by its inode, and what lay in it; a device's number is another after a reboot."""

    inode: int
    prints: Fingerprints


_encode = Encoder().encode
_decode = Decoder(Base).decode


def make(session: str, source: str, owner: int | None) -> str:
    """Make the directories of one mount in a session's, and return their name; `owner` is who the session's root is.

    Raises:
        OSError: there is no room for them, or the source is gone.
    """
    found = os.stat(source)
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    place = f"{session}/{name}"
    os.mkdir(place, 0o700)
    for part in ("upper", "work"):
        os.mkdir(f"{place}/{part}", 0o700)
        if owner is not None:
            os.chown(f"{place}/{part}", owner, owner)
    os.chmod(f"{place}/upper", stat.S_IMODE(found.st_mode))
    # as the kernel stamps files: the clock that programs read is ahead of that by up to a tick
    began = os.stat(f"{place}/upper").st_ctime_ns
    _write(place, Base(found.st_ino, Fingerprints({}, began_ns=began)), flush=False)
    return name


def unused(session: str, attached: tuple[Attached, ...]) -> list[str]:
    """The paths of directories that no mount has any more."""
    used = {mount.layer for mount in attached}
    return [f"{session}/{name}" for name in os.listdir(session) if name.startswith(_PREFIX) and name not in used]


class Upper:
    """An open copy-on-write mount: `lower_fd` is the host's directory, `upper_fd` has the changes."""

    def __init__(self, place: str, lower_fd: int, upper_fd: int, base: Base) -> None:
        self._place = place
        self.lower_fd = lower_fd
        self.upper_fd = upper_fd
        self._base = base

    def look(self) -> Fingerprints:
        """Remember what the host has now where the session has changes that nobody looked at yet.

        Raises:
            LifecycleError: a directory was moved meanwhile.
            SandboxIoError: something cannot be read, or the store is full.
        """
        prints = fingerprints(self.lower_fd, self.upper_fd, known=self._base.prints)
        if prints != self._base.prints:
            self.keep(prints)
        return prints

    def keep(self, prints: Fingerprints) -> None:
        """Remember what the host has."""
        self._base = Base(self._base.inode, prints)
        try:
            _write(self._place, self._base, flush=True)
        except OSError as error:
            raise SandboxIoError(f"the store cannot be written: {error.strerror}") from None


@contextmanager
def opened(session: str, mount: Attached) -> Iterator[Upper]:
    """Open a mount's two directories, for one of us at a time.

    Raises:
        LifecycleError: the host's directory is not the one that the session began with.
        SandboxIoError: one of them cannot be opened.
    """
    place = f"{session}/{mount.layer}"
    fds: list[int] = []
    try:
        try:
            fds.extend(os.open(path, _DIRECTORY) for path in (place, mount.source, f"{place}/upper"))
            fcntl.flock(fds[0], fcntl.LOCK_EX)
            base = _read(place)
        except OSError as error:
            raise SandboxIoError(f"cannot open {error.filename or place}: {error.strerror}") from None
        _check_identity(fds[1], mount, base)
        yield Upper(place, fds[1], fds[2], base)
    finally:
        for fd in fds:
            os.close(fd)


def _check_identity(lower_fd: int, mount: Attached, base: Base) -> None:
    # the source is a path without links: one on the way there has come since
    if os.fstat(lower_fd).st_ino != base.inode or os.readlink(f"/proc/self/fd/{lower_fd}") != mount.source:
        raise LifecycleError(
            f"{mount.source} is another directory than the one that the session began with; "
            "put that back, or discard the changes"
        )
    try:
        refuse_mounts_beneath(mount.source, mount.source)
    except InvalidRequest as error:
        raise LifecycleError(error.detail) from None


def _read(place: str) -> Base:
    with open(f"{place}/base", "rb") as file:
        content = file.read()
    try:
        return _decode(content)
    except MsgspecError:
        raise SandboxIoError(f"{place}/base is damaged; discard the changes") from None


def _write(place: str, base: Base, *, flush: bool) -> None:
    """Replace it in one step; `flush` what a power cut is not to take, which costs a new mount a third of its time."""
    temporary = f"{place}/base-{secrets.token_hex(4)}"
    try:
        with open(temporary, "xb") as file:
            file.write(_encode(base))
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.rename(temporary, f"{place}/base")
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
