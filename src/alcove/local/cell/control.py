"""Requests to a session's warden: one connection, one request, one reply."""

import socket
from array import array
from collections.abc import Callable
from struct import Struct as Layout

from msgspec import Struct

from alcove.local.cell.launch import CONTROL_SOCKET, connect
from alcove.local.cell.operations import Kind, operation
from alcove.local.readiness import readable

REPLY = Layout("<iIIIQQ64s")
#: Seconds for a request that the warden itself serves.
ANSWER_WITHIN_S = 10.0
_END = operation(Kind.END)
_END_WITHIN_S = 1.0


class Reply(Struct, frozen=True):
    """`error` is an errno (0: done) of the step named `step`; who lives in the cell is told where that was asked.

    `processes` are the guest's, `execs` the commands that somebody waits for; `ticks` of processor time have those
    processes used. `frozen_ns` is how long they have stood still since the moment that was asked about.
    """

    error: int
    processes: int
    execs: int
    frozen: bool
    ticks: int
    frozen_ns: int
    step: str


def parse_reply(data: bytes) -> Reply:
    """Decode a reply.

    Raises:
        ConnectionError: the warden ended before it had answered.
    """
    if len(data) < REPLY.size:
        raise ConnectionError("the session's warden is gone")
    error, running, execs, frozen, ticks, frozen_ns, step = REPLY.unpack(data)
    return Reply(
        error=error,
        processes=running,
        execs=execs,
        frozen=bool(frozen),
        ticks=ticks,
        frozen_ns=frozen_ns,
        step=step.rstrip(b"\0").decode("utf-8", "replace"),
    )


async def ask(
    directory: str,
    request: bytes,
    fds: tuple[int, ...] = (),
    *,
    within: float = ANSWER_WITHIN_S,
    meanwhile: Callable[[], None] | None = None,
) -> Reply:
    """Send one request and wait for its reply, and do what can be done `meanwhile`.

    Raises:
        OSError: the warden is gone, or does not answer in time.
    """
    with connect(directory, CONTROL_SOCKET) as connection:
        send(connection, request, fds)
        if meanwhile:
            meanwhile()
        if not await readable(connection.fileno(), within):
            raise TimeoutError(f"the session's warden did not answer within {within:g} s")
        return parse_reply(connection.recv(REPLY.size))


async def end(directory: str, meanwhile: Callable[[], None] | None = None) -> Reply:
    """Let a warden kill the processes of its session; an `error` of 0 says that none is left.

    Raises:
        OSError: as `ask`.
    """
    return await ask(directory, _END, within=_END_WITHIN_S, meanwhile=meanwhile)


def send(connection: socket.socket, request: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one request with its descriptors."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    connection.sendmsg([request], rights)


def leave_pipes(directory: str, fds: list[int]) -> None:
    """Hand over pipes that background processes still write to: the warden keeps them drained."""
    try:
        with connect(directory, CONTROL_SOCKET) as connection:
            send(connection, operation(Kind.DRAIN), tuple(fds))
    except OSError:
        pass  # the session ended meanwhile, and those processes with it
