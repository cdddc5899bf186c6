"""An exec whose streams are the caller's own descriptors: what the command writes goes through as it comes.

The guest never has those descriptors, only pipes of ours (DESIGN.md, section 2). Bytes pass at the pace of the slower
side, and no descriptor of the caller's is waited for by blocking on it: a timeout or Ctrl-C works while the reader of
our output sleeps.
"""

import asyncio
import errno
import fcntl
import os
import select
import socket
import stat

from msgspec import Struct

from alcove.contract import SandboxIoError
from alcove.local.cell.operations import Kind, Stdio, operation
from alcove.local.exec.capture import Capture
from alcove.local.exec.execution import Command, Execution, Outcome, Surroundings

_CHUNK = 1 << 16
#: A pipe that poll(2) calls writable has room for this much (pipe(7)); a blocking write of more could wait.
_SURE_ROOM = 4096


class Streams(Struct, frozen=True):
    """The caller's descriptors: no `stdin` is end-of-file at once, no `stdout` or `stderr` keeps it for the result."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class Flow:
    """Bytes from `source` to `sink`, of which `ours` is the end of a guest's pipe or terminal and does not block."""

    def __init__(self, source: int, sink: int, *, ours: int) -> None:
        self.ours = ours
        self.eof = False
        self.failure: OSError | None = None
        self._source = source
        self._sink = sink
        self._held = memoryview(b"")
        self._left: int | None = None
        self._theirs_can_wait = _can_be_awaited(sink if ours == source else source)
        self._piece = _SURE_ROOM if ours == source and not _is_file(sink) else _CHUNK

    @property
    def over(self) -> bool:
        """Nothing is held, and nothing more comes."""
        return not self._held and (self.eof or self._left == 0)

    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and event without which it cannot go on."""
        if self.over:
            return None
        fd, event = (self._sink, select.EPOLLOUT) if self._held else (self._source, select.EPOLLIN)
        if fd != self.ours and not self._theirs_can_wait:  # a file is always ready: our end sets the pace
            return self.ours, select.EPOLLIN if self.ours == self._source else select.EPOLLOUT
        return fd, event

    def step(self) -> None:
        """Move a piece, and after the command's end all, as far as that goes without waiting."""
        self._move()
        while self._left is not None and not self._held and not self.over:
            self._move()

    def abandon(self) -> None:
        """Move nothing more."""
        self._held = memoryview(b"")
        self.eof = True

    def _move(self) -> None:
        if not self._held and not self.over and self._ready(self._source, select.POLLIN):
            self._read()
        while self._held and self._ready(self._sink, select.POLLOUT):
            if not self._write():
                break

    def finish(self) -> None:
        """The command has ended: take what its pipe still holds, and no more, however fast others go on writing."""
        self._left = fcntl.fcntl(self.ours, fcntl.F_GETPIPE_SZ) if _is_pipe(self.ours) else _CHUNK

    def _ready(self, fd: int, event: int) -> bool:
        if fd == self.ours:
            return True  # it does not block: to try is cheaper than to ask
        poll = select.poll()
        poll.register(fd, event)
        return bool(poll.poll(0))

    def _read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK if self._left is None else min(_CHUNK, self._left))
        except BlockingIOError:
            if self._left is not None:
                self._left = 0
            return
        except OSError:  # EIO: a terminal that nobody has open any more
            data = b""
        self._held = memoryview(data)
        self.eof = not data
        if self._left is not None:
            self._left -= len(data)

    def _write(self) -> bool:
        try:
            self._held = self._held[os.write(self._sink, self._held[: self._piece]) :]
        except BlockingIOError:
            return False
        except OSError as error:
            self._held = memoryview(b"")
            self.eof = True
            self.failure = error
        return True


class Kept:
    """The same for a stream that the result is to have."""

    failure = None

    def __init__(self, fd: int, limit: int) -> None:
        self.ours = fd
        self.capture = Capture(fd, limit)
        self.over = False

    @property
    def eof(self) -> bool:
        """Whether the stream was closed by all who wrote to it."""
        return self.capture.eof

    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and event without which it cannot go on."""
        return None if self.over else (self.ours, select.EPOLLIN)

    def step(self) -> None:
        """Take a piece, if there is one."""
        if not self.over:
            self.capture.read()
            self.over = self.capture.eof

    def finish(self) -> None:
        """The command has ended: take what its pipe still holds."""
        if not self.capture.eof:
            self.capture.read_rest()
        self.over = True


class Relay(Execution):
    """A running exec between the caller's streams."""

    def __init__(
        self,
        streams: Streams,
        connection: socket.socket,
        command: Command,
        session: Surroundings,
    ) -> None:
        super().__init__(connection, command, session)
        self._streams = streams
        self._incoming: Flow | None = None
        self._outgoing: list[Flow | Kept] = []
        self._watched: dict[int, int] = {}
        self._flushed: asyncio.Future[None] = self._loop.create_future()

    def _start(self) -> None:
        theirs: list[int] = []
        flags = Stdio.OUT | Stdio.ERR
        try:
            if self._streams.stdin is not None:
                reading, writing = self._pipe(writable_here=True)
                theirs.append(reading)
                self._incoming = Flow(self._streams.stdin, writing, ours=writing)
                flags |= Stdio.IN
            for sink in (self._streams.stdout, self._streams.stderr):
                reading, writing = self._pipe(writable_here=False)
                theirs.append(writing)
                self._outgoing.append(
                    Kept(reading, self._command.output_limit) if sink is None else Flow(reading, sink, ours=reading)
                )
            self._send(operation(Kind.STDIO, flags=flags), theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        self._listen()

    def _listen(self) -> None:
        self._watch()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def _ready(self) -> None:
        ready = {fd for fd, _ in self._epoll.poll(0)}
        if self._connection.fileno() in ready and not self._done.done():
            self._answer()
        for flow in (self._incoming, *self._outgoing):
            if flow and (wait := flow.waits_for()) and wait[0] in ready:
                flow.step()
        self._watch()

    def _watch(self) -> None:
        """Let epoll look at what each flow waits for now, and close what is over."""
        wanted = {} if self._done.done() else {self._connection.fileno(): select.EPOLLIN}
        for flow in (self._incoming, *self._outgoing):
            if flow and (wait := flow.waits_for()):
                wanted[wait[0]] = wanted.get(wait[0], 0) | wait[1]
        for fd in self._watched.keys() - wanted.keys():
            self._epoll.unregister(fd)
        for fd, events in wanted.items():
            if fd not in self._watched:
                self._epoll.register(fd, events)
            elif self._watched[fd] != events:
                self._epoll.modify(fd, events)
        self._watched = wanted
        self._close_what_is_over()
        if self._done.done() and not self._flushed.done() and all(flow.over for flow in self._outgoing):
            self._flushed.set_result(None)

    def _close_what_is_over(self) -> None:
        """The guest learns that its input has ended, or that nobody reads its output any more (SIGPIPE)."""
        if self._incoming and self._incoming.over:
            os.close(self._incoming.ours)
            self._incoming = None
        for flow in self._outgoing:
            if flow.failure and flow.ours >= 0:
                os.close(flow.ours)
                flow.ours = -1

    async def _flush(self) -> None:
        """Pass on what the command left in its pipes, at the pace of whoever reads it."""
        if self._incoming:
            self._incoming.abandon()
        for flow in self._outgoing:
            if not flow.over:
                flow.finish()
                flow.step()
        self._watch()
        if not self._timed_out:  # time is up: nobody who sleeps over our output may prolong it
            await self._flushed

    def _outcome(self, status: int | None) -> Outcome:
        held = [flow.ours for flow in self._outgoing if flow.ours >= 0 and not flow.eof]
        if held and not self._timed_out:
            self._session.leave(held)
        for flow in self._outgoing:
            if flow.failure and flow.failure.errno != errno.EPIPE:
                raise SandboxIoError(f"the command's output could not be written: {flow.failure.strerror}")
        kept = [flow.capture.result() if isinstance(flow, Kept) else (b"", 0) for flow in self._outgoing]
        return self._told(status, *kept)

    def _close(self) -> None:
        super()._close()
        for flow in (self._incoming, *self._outgoing):
            if flow and flow.ours >= 0:
                os.close(flow.ours)


def _can_be_awaited(fd: int) -> bool:
    """Whether epoll takes it: not a file, nor /dev/null."""
    with select.epoll(1) as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
    return True


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)
