"""What backends ask of the egress service: one connection, one request with descriptors, one reply.

The socket is a path in a directory of the user's own (0700), and the peer's uid is checked besides.
"""

import asyncio
import errno
import os
import socket
import struct
from array import array
from contextlib import suppress

import msgspec
from msgspec import Struct

from alcove.contract import InvalidRequest, NetworkPolicyError
from alcove.egress.config import EgressConfig

#: Of one request: an allow-list may have thousands of entries.
LONGEST = 4 << 20
_FDS = 8
_WITHIN_S = 10.0
_UCRED = struct.Struct("3i")


class Attach(Struct, frozen=True, tag=True):
    """Serve a session.

    Its descriptors: `listeners` many for TCP, one for DNS over UDP, one for DNS over TCP, and a pidfd whose process
    lives as long as the session.
    """

    id: str
    allowed_hosts: tuple[str, ...]
    log: str
    settings: EgressConfig
    listeners: int


class Apply(Struct, frozen=True, tag=True):
    """Another policy for a session that is served. Its descriptors: further listeners for TCP."""

    id: str
    allowed_hosts: tuple[str, ...]


class Detach(Struct, frozen=True, tag=True):
    """Serve a session no more: whatever is open breaks off."""

    id: str


class Reply(Struct, frozen=True):
    """`error` None: done. `served` false: the service does not know the session (it was started anew)."""

    error: str | None = None
    invalid: bool = False
    served: bool = True


Request = Attach | Apply | Detach

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def send(connection: socket.socket, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one message; its bytes travel in a memfd, so that no socket buffer limits them."""
    memory = os.memfd_create("alcove-egress", os.MFD_CLOEXEC)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(memory, left) :]
        connection.sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [memory, *fds]))])
    finally:
        os.close(memory)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which are the caller's to close; b"" at the end.

    Raises:
        OSError: there is none, or it is not of ours.
    """
    _, fds, flags, _ = socket.recv_fds(connection, 1, _FDS, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        return b"", []
    memory = fds.pop(0)
    try:
        return _content(memory, flags), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    finally:
        os.close(memory)


def _content(memory: int, flags: int) -> bytes:
    size = os.fstat(memory).st_size
    if flags & socket.MSG_CTRUNC or size > LONGEST:
        raise OSError(errno.EMSGSIZE, "a request of too much")
    return os.pread(memory, size, 0)


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end (unix(7), SO_PEERCRED)."""
    return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


async def ask(connection: socket.socket, request: Request, fds: tuple[int, ...] = ()) -> Reply:
    """Ask the service at the other end of `connection`, which is closed.

    Raises:
        OSError: it is gone, or does not answer in time.
        InvalidRequest: an entry of the policy cannot be.
        NetworkPolicyError: the service could not do it.
    """
    with connection:
        send(connection, encode(request), fds)
        async with asyncio.timeout(_WITHIN_S):
            data, _ = await received(connection)
    if not data:
        raise ConnectionResetError("the egress service ended before it had answered")
    reply = decode_reply(data)
    if reply.error is not None:
        raise InvalidRequest(reply.error) if reply.invalid else NetworkPolicyError(reply.error)
    return reply


async def received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """As `receive`, once there is something, or the end."""
    with suppress(BlockingIOError):
        return receive(connection)
    await readable(connection)
    return receive(connection)


async def readable(connection: socket.socket) -> None:
    """Wait until there is something to receive, or the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection.fileno(), _tell, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
