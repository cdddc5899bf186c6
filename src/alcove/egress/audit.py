"""The audit log of egress: one JSON object a line, of all that was tried and what became of it.

A log is PATH and its one predecessor PATH.1, neither larger than the limit (or one line, of at most 4 KiB); one process
writes it, any may read. Writing never stops the data path: what could not be written is counted, and the next line that
can be says so.
"""

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from alcove.contract import SandboxIoError

#: Bytes that each of a log's two files may have.
LIMIT_BYTES = 4 << 20

_WINDOW_S = 1.0
_POLL_S = 0.2
_MOST_FOLDS = 64
_CHUNK = 1 << 16
# A domain name's 253 (RFC 1035 2.3.4) fit whole; the rest is ours or the operator's, and only a bound
_LONGEST_NAME = 256
_LONGEST_TEXT = 512
# The backslash too: it must be told apart from the one of an escape
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)} | {ord("\\"): "\\\\"}


def timestamp(at: datetime) -> str:
    """RFC 3339, UTC, milliseconds: of one length, so that texts sort as times do. A naive `at` is local time."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Record(Struct, frozen=True, kw_only=True):
    """One line: a connection that ended or was refused, a question for a name, or a policy that came into force.

    `name`, `port`: what the guest asked for; `address`: what was dialled, or would have been. `sent` and `received` are
    bytes as the guest sees them. `count`: how many equal events the line stands for. `lost`: events before this line
    that could not be written.
    """

    time: str = msgspec.field(default_factory=lambda: timestamp(datetime.now(UTC)))
    session: str
    kind: Literal["connect", "dns", "policy"]
    name: str = ""
    address: str = ""
    port: int | None = None
    allowed: bool
    reason: str = ""
    sent: int = 0
    received: int = 0
    count: int = 1
    lost: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def printable(text: str, limit: int = _LONGEST_NAME) -> str:
    r"""Printable ASCII only, at most `limit` of it: the rest is escaped as \xNN, \uNNNN or \UNNNNNNNN.

    What was cut ends in `...`; the text is one that a guest may have chosen, for a terminal as well as for a file.
    """
    escaped = text[: limit + 1].translate(_ESCAPES).encode("ascii", "backslashreplace").decode("ascii")
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 3]}..."


class _Fold(Struct):
    """Denials that are equal to one that was written: the last of them, and how many."""

    last: Record
    until: float
    count: int = 0


_Key = tuple[str, str, str, int | None, str]


class AuditLog:
    """A log that is open for writing; `path` is relative to the directory `dir_fd`, where one is given.

    Of equal denials (session, kind, name, port and reason) the first is written at once, those of each second after it
    as one line with their `count`; the service calls `settle` each second for those lines to come when nothing else
    does. Beyond 64 different denials in a second the others are one line a session, without name, address and port: a
    guest that asks for names at random must not push everything else out of the log.

    `lost` is how many events could not be written so far. Without `early` the file is opened with the first event: most
    sessions have none, and a file costs as much as everything else about them here.

    Raises:
        SandboxIoError: the file cannot be opened, is a symbolic link, or is no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dir_fd: int | None = None,
        limit_bytes: int = LIMIT_BYTES,
        now: Callable[[], float] = time.monotonic,
        early: bool = True,
    ) -> None:
        self.lost = 0
        self._path = os.fspath(path)
        self._dir_fd = dir_fd
        self._limit = limit_bytes
        self._now = now
        self._folds: dict[_Key, _Fold] = {}
        self._untold = 0
        self._torn = False
        self._closed = False
        self._fd = -1
        if not early:
            return
        try:
            self._open()
        except OSError as error:
            why = f"{error.strerror}; it must be a file of ours, or not be there"
            raise SandboxIoError(f"cannot open the audit log {self._path}: {why}") from None

    def add(self, record: Record) -> None:
        """Write a record with its texts escaped, or fold it into an equal one; after `close` it is counted as lost."""
        if self._closed:
            self.lost += record.count
            return
        self.settle()
        record = _escaped(record)
        if record.allowed:
            self._write(record)
            return
        key = _key(record)
        if key not in self._folds and len(self._folds) >= _MOST_FOLDS:
            record = replace(record, name="", address="", port=None, reason="one of many different denials")
            key = _key(record)
        fold = self._folds.get(key)
        if fold is None:
            self._folds[key] = _Fold(record, self._now() + _WINDOW_S)
            self._write(record)
        else:
            fold.last = record
            fold.count += record.count

    def settle(self) -> None:
        """Write what was folded and whose second is over."""
        now = self._now()
        while self._folds:
            key, fold = next(iter(self._folds.items()))  # the oldest: windows are of one length
            if fold.until > now:
                return
            del self._folds[key]
            if fold.count:
                self._folds[key] = _Fold(fold.last, now + _WINDOW_S)
                self._write(replace(fold.last, count=fold.count))

    def close(self) -> None:
        """Write all that was folded, and let go of the file."""
        for fold in self._folds.values():
            if fold.count:
                self._write(replace(fold.last, count=fold.count))
        self._folds.clear()
        self._closed = True
        self._close_file()

    def _write(self, record: Record) -> None:
        line = _encode(replace(record, lost=self._untold)) + b"\n"
        written = 0
        try:
            self._make_room(len(line) + 1)
            if self._torn:
                line = b"\n" + line
            written = os.write(self._fd, line)
        except OSError:
            pass
        if written == len(line):
            self._torn = False
            self._untold = 0
            return
        self._torn |= written > 0
        self._untold += record.count
        self.lost += record.count

    def _make_room(self, size: int) -> None:
        """Rotate where a line of `size` has no room; open the file where that failed before, or somebody deleted it."""
        if self._fd >= 0:
            found = os.fstat(self._fd)
            if found.st_nlink and (found.st_size + size <= self._limit or not found.st_size):
                return
            if found.st_nlink:
                os.rename(self._path, f"{self._path}.1", src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
            self._close_file()
        self._open()

    def _open(self) -> None:
        # O_RDWR: the last byte is read
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600, dir_fd=self._dir_fd)
        try:
            self._torn = _is_torn(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_torn(fd: int) -> bool:
    """Whether the writer before us died in the middle of a line; makes sure that the file is one, and ours alone."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    if stat.S_IMODE(found.st_mode) != 0o600:
        os.fchmod(fd, 0o600)
    return found.st_size > 0 and os.pread(fd, 1, found.st_size - 1) != b"\n"


def _escaped(record: Record) -> Record:
    return replace(
        record,
        session=printable(record.session),
        name=printable(record.name),
        address=printable(record.address),
        reason=printable(record.reason, _LONGEST_TEXT),
    )


def _key(record: Record) -> _Key:
    return record.session, record.kind, record.name, record.port, record.reason


def read(path: str | os.PathLike[str], since: datetime | None = None) -> Generator[Record, None, None]:
    """Yield the records of a log, the oldest first, without those before `since`; none where there is no log.

    What is no record is passed over: a line that is being written, or one whose writer died in it.

    Raises:
        SandboxIoError: the log is there and cannot be read.
    """
    tail = _Tail(os.fspath(path), since)
    try:
        yield from tail.records()
    finally:
        tail.close()


async def follow(
    path: str | os.PathLike[str], since: datetime | None = None, *, over: Callable[[], bool] = lambda: False
) -> AsyncGenerator[Record, None]:
    """Yield what `read` does, then each new record within a fifth of a second; waits for a log that is not there yet.

    It ends once `over` has said that no more will come.

    Raises:
        SandboxIoError: the log is there and cannot be read.
    """
    tail = _Tail(os.fspath(path), since)
    try:
        while True:
            last = over()  # before what is read last, so that nothing comes between
            for record in tail.records():
                yield record
            if last:
                return
            await asyncio.sleep(_POLL_S)
    finally:
        tail.close()


class _Tail:
    """Reads a log on and on, over its rotations."""

    def __init__(self, path: str, since: datetime | None) -> None:
        self._path = path
        self._since = "" if since is None else timestamp(since)
        self._files: list[int] = []  # the one that is being read, and later ones
        self._partial = b""

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def records(self) -> Iterator[Record]:
        """Yield what is there and was not yielded before."""
        for line in self._lines():
            try:
                record = _decode(line)
            except ValueError:  # msgspec.DecodeError, and UnicodeDecodeError
                continue
            if record.time >= self._since:
                yield record

    def _lines(self) -> Iterator[bytes]:
        try:
            yield from self._rest()
            if self._is_current():
                return
            self._open_later()
            yield from self._rest()  # of the first file, or what was written between its end and its rotation
            while len(self._files) > 1:
                os.close(self._files.pop(0))
                self._partial = b""
                yield from self._rest()
        except OSError as error:
            raise SandboxIoError(f"cannot read the audit log {self._path}: {error.strerror}") from None

    def _is_current(self) -> bool:
        try:
            return bool(self._files) and os.path.samefile(self._files[0], self._path)
        except FileNotFoundError:
            return False

    def _open_later(self) -> None:
        place = len(self._files)
        # read after its predecessor but opened before it: rotated in between it is both, the other way round neither
        for path in (self._path, f"{self._path}.1"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if any(os.path.samefile(fd, other) for other in self._files):
                os.close(fd)
            else:
                self._files.insert(place, fd)

    def _rest(self) -> Iterator[bytes]:
        while self._files and (data := os.read(self._files[0], _CHUNK)):
            *lines, self._partial = (self._partial + data).split(b"\n")
            yield from lines
