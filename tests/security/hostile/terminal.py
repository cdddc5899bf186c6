"""terminal: characters put into terminals, and line disciplines set, by whatever terminal there is."""

import ctypes
import os
import pty

from tests.security.hostile.raw import attempt

TIOCSTI, TIOCLINUX, TIOCSETD, TIOCSCTTY = 0x5412, 0x541C, 0x5423, 0x540E
libc = ctypes.CDLL(None, use_errno=True)


def control(fd: int, command: int, text: bytes) -> None:
    if libc.ioctl(fd, ctypes.c_ulong(command), ctypes.c_char_p(text)) < 0:
        raise OSError(ctypes.get_errno(), "ioctl")


def type_in(fd: int, command: int) -> None:
    for letter in b"hostile\n":
        control(fd, command, bytes([letter]))


def inject(name: str, fd: int) -> None:
    for word in (TIOCSTI, TIOCSTI | 1 << 32, TIOCSTI | 1 << 63):
        attempt(f"{name}:sti:{word:x}", lambda: type_in(fd, word))  # noqa: B023
    attempt(f"{name}:linux", lambda: control(fd, TIOCLINUX, b"\x02"))
    attempt(f"{name}:discipline", lambda: control(fd, TIOCSETD, b"\0\0\0\0"))


if __name__ == "__main__":
    for fd in range(3):
        inject(f"fd{fd}", fd)
    attempt("ctty", lambda: inject("ctty", os.open("/dev/tty", os.O_RDWR)))
    if os.fork() == 0:
        os.setsid()
        master, slave = pty.openpty()
        os.close(os.open(os.ttyname(slave), os.O_RDWR))
        inject("own", slave)
        os._exit(0)
    os.wait()
    for number in range(8):
        attempt(f"pts{number}", lambda: inject("pts", os.open(f"/dev/pts/{number}", os.O_RDWR)))  # noqa: B023
