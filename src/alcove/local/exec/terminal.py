"""The local backend for somebody at a terminal: execs on the caller's own streams, or on a terminal in the session."""

import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from alcove.contract import ExecError, ExecRequest, ExecResult
from alcove.local.backend import LocalSandbox
from alcove.local.cell.operations import Kind, operation
from alcove.local.copies import beside
from alcove.local.exec.execution import Command, Outcome, Surroundings
from alcove.local.exec.relay import Flow, Relay, Streams

if TYPE_CHECKING:
    from alcove.local.disk.usage import StoreUsage

__all__ = ["Resizing", "Streams", "TerminalSandbox", "raw_mode"]

_STARTED = struct.pack("<I", 1)  # the exec_message that brings the terminal's master
_MESSAGE_SIZE = 16
_COMMON_SIZE = (24, 80)


class TerminalSandbox(LocalSandbox):
    """`LocalSandbox` with two more ways to exec, and with what a person may want to stop."""

    async def relay(self, session_id: str, request: ExecRequest, streams: Streams) -> ExecResult:
        """Run a command whose streams are the caller's: `exec` in all else.

        Raises:
            SandboxIoError: what it wrote could not be passed on.
        """
        return await self._exec(session_id, request, partial(Relay, streams))

    async def terminal(
        self, session_id: str, request: ExecRequest, shown_on: tuple[int, int], resizing: "Resizing"
    ) -> ExecResult:
        """Run a command on a terminal of the session's, shown on the caller's: where it is read, where it is written.

        The caller's terminal is in raw mode meanwhile: `raw_mode`.
        """
        return await self._exec(session_id, request, partial(TerminalRelay, shown_on, resizing))

    async def usage_beside(self, looked: Callable[[int], None] | None) -> "StoreUsage":
        """Return `usage`, looked for in a thread; cancelled, it ends with the next file."""
        return await beside(self.usage, looked)


class Resizing:
    """Told when the caller's terminal has another size; the exec that runs on it listens."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None

    def tell(self) -> None:
        """The size has changed (SIGWINCH)."""
        if self.listener:
            self.listener()


class TerminalRelay(Relay):
    """A running exec on a terminal: the spawner opens it inside the session and sends us its master."""

    def __init__(
        self,
        shown_on: tuple[int, int],
        resizing: Resizing,
        connection: socket.socket,
        command: Command,
        session: Surroundings,
    ) -> None:
        super().__init__(Streams(), connection, command, session)
        self._keys, self._screen = shown_on
        self._master = -1
        self._resizing = resizing

    def _start(self) -> None:
        rows, columns = _size(self._screen)
        self._send(operation(Kind.TTY, n0=rows, n1=columns), [])
        self._listen()

    def _answer(self) -> None:
        if self._master >= 0 or self._connection.recv(_MESSAGE_SIZE, socket.MSG_PEEK)[:4] != _STARTED:
            super()._answer()
            return
        _, fds, _, _ = socket.recv_fds(self._connection, _MESSAGE_SIZE, 1)
        if not fds:
            raise ExecError("the session's terminal did not arrive; too many open files here?")
        self._master = fds[0]
        os.set_blocking(self._master, False)
        self._incoming = Flow(self._keys, self._master, ours=self._master)
        self._outgoing = [Flow(self._master, self._screen, ours=self._master)]
        self._resizing.listener = self._resize

    def _resize(self) -> None:
        rows, columns = _size(self._screen)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _close_what_is_over(self) -> None:
        """Both directions are one descriptor, closed at the end; a caller whose terminal is gone has hung up."""
        gone = self._incoming and self._incoming.over and not self._incoming.failure
        if gone or any(flow.failure for flow in self._outgoing):
            self._kill()

    def _outcome(self, status: int | None) -> Outcome:
        return self._told(status, (b"", 0), (b"", 0))

    def _close(self) -> None:
        self._resizing.listener = None
        self._incoming, self._outgoing = None, []
        super()._close()
        if self._master >= 0:
            os.close(self._master)


@contextmanager
def raw_mode(fd: int) -> Iterator[Callable[[], None]]:
    """Hand every key to the guest while inside, Ctrl-C too; the given function does so again after a stop (SIGCONT)."""
    import tty

    before = termios.tcgetattr(fd)

    def enter() -> None:
        tty.setraw(fd, termios.TCSADRAIN)

    enter()
    try:
        yield enter
    finally:
        with suppress(termios.error):  # EIO: the terminal is gone, and with it what there was to restore
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _size(fd: int) -> tuple[int, int]:
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return _COMMON_SIZE
    return (rows, columns) if rows and columns else _COMMON_SIZE
