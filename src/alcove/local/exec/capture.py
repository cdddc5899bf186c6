"""One output stream of a command: kept up to a limit, drained beyond it."""

import fcntl
import os
from collections import deque

_CHUNK = 1 << 16
_LARGE_CHUNK = 1 << 20
_READS_A_TURN = 16


class Capture:
    """Reads a pipe; beyond `limit` bytes keeps the first and the last half and counts the rest."""

    __slots__ = ("_chunk", "_head", "_limit", "_parts", "_tail", "_tail_size", "eof", "fd", "total")

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.eof = False
        self.total = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._head: bytes | None = None
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._chunk = _CHUNK

    def read(self, most: int | None = None) -> None:
        """Take what is there, without waiting; at most `most` bytes, or a fair share."""
        taken = 0
        for _ in range(_READS_A_TURN if most is None else 1 << 30):
            try:
                data = os.read(self.fd, self._chunk)
            except BlockingIOError:
                return
            if not data:
                self.eof = True
                return
            self._keep(data)
            taken += len(data)
            if len(data) == _CHUNK == self._chunk:
                self._widen()
            if most is not None and taken >= most:
                return

    def read_rest(self) -> None:
        """After the writer's end: all that can still lie in the pipe, however fast somebody else goes on writing."""
        self.read(most=fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ))

    def result(self) -> tuple[bytes, int]:
        """What was kept, and how many bytes between its two halves were not."""
        if self._head is None:
            return b"".join(self._parts), 0
        tail = b"".join(self._tail)[-(self._limit // 2) :] if self._limit > 1 else b""
        return self._head + tail, self.total - len(self._head) - len(tail)

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        if self._head is None:
            self._parts.append(data)
            if self.total > self._limit:
                self._split()
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= self._limit // 2 and len(self._tail) > 1:
            self._tail_size -= len(self._tail.popleft())

    def _split(self) -> None:
        everything = b"".join(self._parts)
        half = self._limit - self._limit // 2
        self._parts.clear()
        self._head = everything[:half]
        rest = everything[half:]
        self._tail.append(rest)
        self._tail_size = len(rest)

    def _widen(self) -> None:
        """A stream that fills the pipe gets a larger one, where this user may still have it (pipe(7))."""
        self._chunk = _LARGE_CHUNK
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, _LARGE_CHUNK)
        except OSError:
            self._chunk = _CHUNK * 2
