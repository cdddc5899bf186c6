"""messages put|get SECRET-NAME SECRET: whatever processes can leave for each other without a file of their own."""

import contextlib
import ctypes
import glob
import os
import socket
import sys
from collections.abc import Callable, Iterator

KEY = 0x41C0
SIZE = 64
PLACES = ["/dev/shm", "/tmp", "/var/tmp", "/run", "/run/lock", "/workspace", "/mnt/session/outputs"]

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
for function in (libc.mq_send, libc.mq_receive):
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]


def put_segment(secret: bytes) -> None:
    at = libc.shmat(libc.shmget(KEY, SIZE, 0o1666), None, 0)
    if at not in (None, ctypes.c_void_p(-1).value):
        ctypes.memmove(at, secret, len(secret))


def get_segments() -> Iterator[bytes]:
    for identifier in (libc.shmget(KEY, SIZE, 0), *range(0, 65536, 32768), *range(8)):
        at = libc.shmat(identifier, None, 0o10000) if identifier >= 0 else None
        if at not in (None, ctypes.c_void_p(-1).value):
            yield ctypes.string_at(at, SIZE)


def drop_segment() -> None:
    libc.shmctl(libc.shmget(KEY, SIZE, 0), 0, None)


def put_queue(secret: bytes) -> None:
    queue = libc.mq_open(b"/hostile", os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o666, None)
    libc.mq_send(queue, secret, len(secret), None)


def get_queue() -> bytes:
    room = ctypes.create_string_buffer(8192)
    queue = libc.mq_open(b"/hostile", os.O_RDWR | os.O_NONBLOCK, 0, None)
    size = libc.mq_receive(queue, room, 8192, None) if queue >= 0 else 0
    libc.mq_unlink(b"/hostile")
    return room.raw[: max(size, 0)]


def put_files(secret: bytes) -> None:
    for place in PLACES:
        with contextlib.suppress(OSError), open(f"{place}/hostile-message", "wb") as file:
            file.write(secret)


def get_files() -> Iterator[bytes]:
    for place in PLACES:
        for path in glob.glob(f"{place}/hostile-message"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                yield place.encode() + b" " + file.read()


def abstract(deed: Callable[[socket.socket], bytes | None]) -> bytes | None:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.setblocking(False)
    with contextlib.suppress(OSError):
        return deed(end)
    return None


def get_abstract() -> bytes | None:
    def receive(end: socket.socket) -> bytes:
        end.connect("\0alcove-hostile")
        return b"an abstract socket of somebody else's"

    return abstract(receive)


if __name__ == "__main__":
    if sys.argv[1] == "put":
        put_segment(sys.argv[2].encode())
        put_queue(sys.argv[2].encode())
        put_files(sys.argv[2].encode())
    elif sys.argv[1] == "get":
        print("segment", list(get_segments()))
        print("queue", get_queue())
        print("files", list(get_files()))
        print("abstract", get_abstract())
    else:
        drop_segment()
