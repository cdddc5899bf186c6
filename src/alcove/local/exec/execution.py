"""One exec: a connection of its own, fresh pipes, one terminal result.

The end of the connection is the order to kill the tree, so a caller that dies leaves nothing in the foreground.
"""

import asyncio
import errno
import fcntl
import os
import select
import socket
import termios
import time
from array import array
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from struct import Struct as Layout
from typing import Any, Protocol

from msgspec import Struct

from alcove.contract import ExecError, InvalidRequest, SandboxError
from alcove.local.cell.launch import sealed
from alcove.local.cell.operations import Kind, Stdio, operation
from alcove.local.exec.capture import Capture

#: After the order to kill, until the whole session is ended because a guest keeps its exec's monitor from working.
ESCALATE_AFTER_S = 0.25
#: After that, until we stop waiting for its last word.
_GIVE_UP_AFTER_S = 0.2
#: After which a request is read, on a machine that is not overloaded.
_READ_WITHIN_S = 0.1
#: Between two looks at a session that stands still when a command's time might be up.
_LOOK_AGAIN_S = 0.25
_MOST_MESSAGE = 48 << 10
_MESSAGE = Layout("<Iiii")
_STARTED, _EXITED, _FAILED = 1, 2, 3
_STEPS = ("", "request", "tty", "fork", "user", "cwd", "exec", "monitor")
_WRITE_CHUNK = 1 << 20


class Command(Struct, frozen=True):
    """What to run, resolved: `request` is the encoded operations without stdio."""

    request: bytes
    stdin: bytes | None
    timeout: float | None
    output_limit: int
    cwd: str
    user: str | None
    owner: int | None


class Outcome(Struct, frozen=True):
    """How it ended: `status` as from waitpid(2), None when a timeout's kill took the session's processes along."""

    status: int | None
    timed_out: bool
    stdout: bytes
    stderr: bytes
    stdout_omitted: int
    stderr_omitted: int


class NotTaken(ExecError):  # noqa: N818 - not for callers
    """The request was never read, so that it may be sent again."""


class Surroundings(Protocol):
    """What an exec needs of the session that it runs in."""

    def end(self) -> None:
        """End every process of the session, without waiting for it."""

    def leave(self, fds: list[int]) -> None:
        """Take pipes that others still hold."""

    def stands_still(self) -> bool:
        """Tell whether its processes are frozen now."""

    async def stood_still(self, since_ns: int) -> float:
        """For how many seconds they were since then (time.monotonic_ns()); bounded, and 0 where nobody can tell."""

    async def wake(self) -> None:
        """Let them go on.

        Raises:
            SandboxError: they cannot.
        """


class Execution:
    """A running exec."""

    def __init__(self, connection: socket.socket, command: Command, session: Surroundings) -> None:
        self._connection = connection
        self._command = command
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int | None] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._epoll = select.epoll(4)
        self._stdin_fd = -1
        self._stdin = memoryview(command.stdin) if command.stdin else None
        self._captures: dict[int, Capture] = {}
        self._killing = False
        self._timed_out = False
        self._reset = False
        self._began = time.monotonic_ns()
        self._asking: dict[Callable[[], Coroutine[Any, Any, None]], asyncio.Task[None]] = {}
        #: True when the session's processes ended under the command, or had to be ended to end it.
        self.session_ended = False

    async def run(self) -> Outcome:
        """Run to the end, and until the last output has gone out.

        Raises:
            ExecError: the command could not be started, or its end cannot be told.
            SandboxIoError: output that goes to the caller's own descriptors could not be written.
        """
        try:
            self._start()
            self._time()
            try:
                status = await self._done
            except asyncio.CancelledError:
                await self._cancel()
                raise
            await self._flush()
            return self._outcome(status)
        finally:
            self._close()

    # The start

    def _time(self) -> None:
        if self._command.timeout is not None:
            self._after(self._command.timeout, self._time_out)
        self._after(_READ_WITHIN_S, self._look_whether_read, _READ_WITHIN_S)

    def _start(self) -> None:
        """Send the request first: the command is born while we get ready to listen to it."""
        theirs: list[int] = []
        flags = Stdio.OUT | Stdio.ERR
        try:
            if self._stdin is not None:
                reading, self._stdin_fd = self._pipe(writable_here=True)
                theirs.append(reading)
                flags |= Stdio.IN
            for _ in range(2):
                fd, writing = self._pipe(writable_here=False)
                self._captures[fd] = Capture(fd, self._command.output_limit)
                theirs.append(writing)
            self._send(_stdio(flags), theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        self._epoll.register(self._connection.fileno(), select.EPOLLIN)
        for fd in self._captures:
            self._epoll.register(fd, select.EPOLLIN)
        if self._stdin_fd >= 0:
            self._epoll.register(self._stdin_fd, select.EPOLLOUT)
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def _pipe(self, *, writable_here: bool) -> tuple[int, int]:
        """A pipe's reading and writing end, the one that stays here not blocking."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing if writable_here else reading, False)
        if self._command.owner is not None:
            # so that /dev/stdout can be opened again by name inside: the pipe's owner must be an id of the session
            os.fchown(writing, self._command.owner, self._command.owner)
            if self._command.user:
                os.fchmod(writing, 0o666)
        return reading, writing

    def _send(self, stdio: bytes, fds: list[int]) -> None:
        request = self._command.request + stdio
        body = -1
        try:
            if len(request) > _MOST_MESSAGE:
                body = sealed(request, "alcove-exec")
                request = operation(Kind.BODY, v0=len(request))
            sent = [*fds, *([body] if body >= 0 else [])]
            self._connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", sent))])
        except OSError as error:
            raise NotTaken(f"the session's spawner does not answer: {error.strerror}") from None
        finally:
            if body >= 0:
                os.close(body)

    # Events

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if capture := self._captures.get(fd):
                capture.read()
                if capture.eof:
                    self._epoll.unregister(fd)
            elif fd == self._stdin_fd:
                self._feed()
            elif not self._done.done():
                self._answer()

    def _feed(self) -> None:
        view = self._stdin
        try:
            while view:
                view = view[os.write(self._stdin_fd, view[:_WRITE_CHUNK]) :]
        except BlockingIOError:
            self._stdin = view
            return
        except OSError:  # EPIPE: the command reads no more, which is its right
            pass
        self._stdin = None
        self._epoll.unregister(self._stdin_fd)
        os.close(self._stdin_fd)
        self._stdin_fd = -1

    def _answer(self) -> None:
        try:
            data = self._connection.recv(_MESSAGE.size)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # something we sent was never read; what was answered before is still to be had
            self._reset = True
            return
        except OSError:
            data = b""
        if len(data) < _MESSAGE.size:
            self._lost()
            return
        outcome, status, step, error = _MESSAGE.unpack(data)
        if outcome == _EXITED:
            self._done.set_result(status)
        elif outcome == _FAILED:
            self._done.set_exception(self._failure(_STEPS[step], error))

    def _lost(self) -> None:
        self.session_ended = True
        if self._killing:
            self._done.set_result(None)  # the kill took the whole session, this tree with it
        elif self._reset:
            self._done.set_exception(NotTaken("the session ended before it had read the request"))
        else:
            self._done.set_exception(
                ExecError("the session's processes ended before the command did; its files are kept, run it again")
            )

    def _failure(self, step: str, error: int) -> Exception:
        reason = os.strerror(error)
        if step == "cwd":
            what = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}.get(error, f"failed: {reason}")
            return ExecError(f"working directory `{self._command.cwd}` {what}")
        if step == "user":
            if error == errno.ENOENT:
                return InvalidRequest(f"user `{self._command.user}` is not in the session's /etc/passwd; give a uid")
            return InvalidRequest(f"user `{self._command.user}` cannot be had here: {reason}")
        if step == "exec" and error == errno.E2BIG:
            return InvalidRequest("arguments and environment together are more than the kernel takes (ARG_MAX)")
        if step == "fork":
            return ExecError(f"the session can start no further process: {reason}; its `pids` limit counts what runs")
        if step == "monitor":
            return ExecError("the command's monitor was killed from inside the session before the command began")
        return ExecError(f"{step}: {reason}")

    # The end

    def _after(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self._timers.append(self._loop.call_later(seconds, call, *arguments))

    def _ask(self, asking: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if asking not in self._asking or self._asking[asking].done():
            self._asking[asking] = self._loop.create_task(asking())

    def _time_out(self) -> None:
        self._ready()  # a result that is there already is the truth
        if not self._done.done():
            self._ask(self._judge_time)

    async def _judge_time(self) -> None:
        """Time in which the session stood still is not the command's."""
        stood = await self._session.stood_still(self._began)
        left = (self._command.timeout or 0.0) + stood - (time.monotonic_ns() - self._began) / 1e9
        if self._done.done() or self._killing:
            return
        if stood and left > 0:
            self._after(max(left, _LOOK_AGAIN_S) if self._session.stands_still() else left, self._time_out)
            return
        self._timed_out = True
        self._kill()

    def _look_whether_read(self, waited: float) -> None:
        """A request that came just before its session was frozen is one more reason to wake it."""
        if self._done.done() or not _unread(self._connection):
            return
        self._wake_if_still()
        self._after(min(2 * waited, 1.0), self._look_whether_read, min(2 * waited, 1.0))

    def _wake_if_still(self) -> bool:
        still = self._session.stands_still()
        if still:
            self._ask(self._wake)
        return still

    async def _wake(self) -> None:
        try:
            await self._session.wake()
        except (SandboxError, OSError) as error:
            if not self._done.done():
                self._done.set_exception(ExecError(f"the session does not wake up: {error}"))

    def _kill(self) -> None:
        if self._killing or self._done.done():
            return
        self._killing = True
        with suppress(OSError):  # gone already: its end is on its way to us
            self._connection.send(b"k")
        self._after(ESCALATE_AFTER_S, self._escalate)

    def _escalate(self) -> None:
        if self._done.done():
            return
        if self._wake_if_still():  # the order has not been read: it is, as soon as they go on
            self._after(ESCALATE_AFTER_S, self._escalate)
            return
        self.session_ended = True
        self._session.end()
        self._after(_GIVE_UP_AFTER_S, self._give_up)

    def _give_up(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def _cancel(self) -> None:
        """Kill the tree and wait, within the bound of a kill, until it is dead."""
        self._done = self._loop.create_future()
        self._killing = False
        self._kill()
        while not self._done.done():
            try:
                await asyncio.shield(self._done)
            except asyncio.CancelledError:  # once more: the wait is bounded, and what we leave must be nothing
                continue
            except (ExecError, InvalidRequest):
                break

    async def _flush(self) -> None:
        """What is captured has nowhere to go."""

    def _outcome(self, status: int | None) -> Outcome:
        held = []
        for capture in self._captures.values():
            if not capture.eof:
                capture.read_rest()
            if not capture.eof:
                held.append(capture.fd)
        if held and not self._timed_out:
            self._session.leave(held)
        stdout, stderr = (capture.result() for capture in self._captures.values())
        return self._told(status, stdout, stderr)

    def _told(self, status: int | None, stdout: tuple[bytes, int], stderr: tuple[bytes, int]) -> Outcome:
        """The outcome, with what was kept of each stream and how much of it was left out."""
        return Outcome(
            status=status,
            timed_out=self._timed_out,
            stdout=stdout[0],
            stderr=stderr[0],
            stdout_omitted=stdout[1],
            stderr_omitted=stderr[1],
        )

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._asking.values():
            task.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._connection.close()
        for fd in self._captures:
            os.close(fd)
        if self._stdin_fd >= 0:
            os.close(self._stdin_fd)


@cache
def _stdio(flags: int) -> bytes:
    return operation(Kind.STDIO, flags=flags)


def exit_code(status: int) -> tuple[int, int | None]:
    """The code as a shell tells it, and the signal that killed."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return 128 + number, number
    return os.waitstatus_to_exitcode(status), None


def _unread(connection: socket.socket) -> bool:
    """Tell whether something that we sent has not been read (SIOCOUTQ of unix(7))."""
    waiting = array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
    return waiting[0] > 0


#: Makes what follows a command.
MakeExecution = Callable[[socket.socket, Command, Surroundings], Execution]
