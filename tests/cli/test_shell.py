"""`alcove shell` on a real terminal: what a person at the keyboard sees."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.cli import WITHIN, Cli, read_until

pytestmark = pytest.mark.user

CTRL_C, CTRL_D, CTRL_Z = b"\x03", b"\x04", b"\x1a"
# bash without anybody's start-up files, and a prompt that cannot be in an echo of what was typed
BASH = ["--env", "PS1=READY$((0))> ", "--", "bash", "--norc", "--noprofile"]
PROMPT = b"READY0> "


class Keyboard:
    """The other side of a terminal on which `alcove` runs."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.ahead = bytearray()

    def until(self, end: bytes) -> str:
        return read_until(self.master, end, self.ahead).decode()

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def line(self, text: str) -> str:
        """Type a line at the prompt and return what is shown up to the next prompt."""
        self.type(text.encode() + b"\r")
        return self.until(PROMPT)

    def job(self, command: str) -> None:
        """Begin a foreground job, and wait until the terminal is its own: before, Ctrl-C would be the shell's."""
        self.type(f"sh -c 'echo begun-$((1)); exec {command}'\r".encode())
        self.until(b"begun-1\r\n")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Wait for the end and return the exit code; what is still shown is thrown away, as a screen does."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while pidfd not in (ready := select.select([self.master, pidfd], [], [], WITHIN)[0]):
                assert ready, "the shell does not end"
                os.read(self.master, 65536)
        finally:
            os.close(pidfd)
        return self.process.wait(WITHIN)


@contextmanager
def at_terminal(alcove: Cli, *words: str) -> Iterator[Keyboard]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(slave)
    # setsid executes it, so that the process is alcove itself
    argv = ["setsid", "--ctty", *alcove.command, *words]
    process = subprocess.Popen(argv, cwd=alcove.cwd, env=alcove.environment, stdin=slave, stdout=slave, stderr=slave)
    try:
        keyboard = Keyboard(master, process)
        yield keyboard
        if process.poll() is None:
            process.terminate()
            keyboard.end()
        assert termios.tcgetattr(slave) == before, "the terminal was not restored"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WITHIN)
        os.close(slave)
        os.close(master)


@pytest.fixture
def shell(alcove: Cli) -> Iterator[Keyboard]:
    """Yield somebody at the prompt of bash in a session of its own."""
    with at_terminal(alcove, "shell", *BASH) as keyboard:
        keyboard.until(PROMPT)
        yield keyboard


def test_it_is_a_terminal_of_the_sessions_own(shell: Keyboard) -> None:
    assert "/dev/pts/0" in shell.line("tty")
    assert "all-yes" in shell.line("test -t 0 && test -t 1 && test -t 2 && echo all-$(echo yes)")
    assert "30 100" in shell.line("stty size")
    assert "TERM=xterm." in shell.line('echo "TERM=$TERM."')
    assert "tty_nr-1" not in shell.line("(: </dev/tty) && echo tty_nr-$?")


def test_the_exit_code_is_the_shells(shell: Keyboard) -> None:
    shell.type(b"exit 7\r")
    assert shell.end() == 7


def test_end_of_file_leaves_the_shell(shell: Keyboard) -> None:
    shell.type(CTRL_D)
    assert shell.end() == 0


def test_ctrl_c_is_the_guests(shell: Keyboard) -> None:
    shell.job("sleep 60")
    shell.type(CTRL_C)
    shell.until(PROMPT)
    assert "code 130." in shell.line("echo code $?.")


def test_job_control(shell: Keyboard) -> None:
    shell.job("cat")
    shell.type(b"echoed\r")
    shell.until(b"echoed\r\nechoed\r\n")
    shell.type(CTRL_Z)
    assert "Stopped" in shell.until(PROMPT)
    assert "cat" in shell.line("jobs")
    shell.type(b"fg\r")
    shell.until(b"exec cat'\r\n")
    shell.type(b"again\r")
    shell.until(b"again\r\nagain\r\n")
    shell.type(CTRL_D)
    shell.until(PROMPT)
    assert "none." in shell.line('echo "$(jobs)none."')


def test_a_new_size_reaches_the_guest(shell: Keyboard) -> None:
    shell.type(
        b"python3 -c 'import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH]); "
        b'print("armed", 1 + 1, sep="-"); signal.sigwait([signal.SIGWINCH]); print(os.get_terminal_size())\'\r'
    )
    shell.until(b"armed-2")
    shell.resize(50, 132)
    shell.until(b"columns=132, lines=50")
    shell.until(PROMPT)
    assert "50 132" in shell.line("stty size")


def test_a_lot_of_output_arrives_whole(shell: Keyboard) -> None:
    seen = shell.line("seq 200000 | tail -n 150000; echo done-$((1))")
    assert seen.count("\r\n") >= 150000
    assert "\r\n200000\r\ndone-1\r\n" in seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_outside_ends_it(alcove: Cli, shell: Keyboard, number: signal.Signals) -> None:
    shell.process.send_signal(number)
    assert shell.end() == 128 + number
    assert alcove.ids() == []


def test_a_stop_and_a_return(shell: Keyboard) -> None:
    """The shell that we were started from takes its terminal back when we are stopped; SIGCONT makes it raw again."""
    shell.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, shell.process.pid, os.WSTOPPED)
    attributes = termios.tcgetattr(shell.master)
    attributes[3] |= termios.ICANON | termios.ECHO | termios.ISIG
    termios.tcsetattr(shell.master, termios.TCSANOW, attributes)
    shell.process.send_signal(signal.SIGCONT)
    assert "back-1" in shell.line("echo back-$((1))")
    assert not termios.tcgetattr(shell.master)[3] & termios.ISIG


def test_a_session_that_is_there(alcove: Cli) -> None:
    box = alcove.create()
    alcove.out("exec", box, "--", "sh", "-c", "echo mine > file")
    with at_terminal(alcove, "shell", box, *BASH) as shell:
        shell.until(PROMPT)
        assert "mine" in shell.line("cat file")
        shell.type(b"exit\r")
        assert shell.end() == 0
    assert alcove.ids() == [box]


def test_the_default_is_the_sessions_shell(alcove: Cli) -> None:
    with at_terminal(alcove, "shell", "--env", f"PS1={PROMPT.decode()}") as shell:
        shell.type(b"echo $0 in $PWD-$((1))\r")
        shell.until(b"/workspace-1")
        shell.type(b"exit 3\r")
        assert shell.end() == 3


def test_a_timeout_gives_the_terminal_back(alcove: Cli) -> None:
    with at_terminal(alcove, "shell", "--timeout", "500ms", "--", "sleep", "60") as shell:
        assert shell.end() == 124


def test_without_a_terminal_it_says_so(alcove: Cli) -> None:
    assert alcove.refusal("shell").startswith("a shell needs a terminal; for scripts: alcove exec")


def test_a_session_that_is_there_cannot_be_described(alcove: Cli) -> None:
    with at_terminal(alcove, "shell", "box", "--net") as shell:
        shell.until(b"--net is for a session of the shell's own; `box` is there already")
        assert shell.end() == 125


TYPIST = """
import ctypes, errno, fcntl, os, platform, struct, termios
libc = ctypes.CDLL(None, use_errno=True)
ioctl = {"x86_64": 16, "aarch64": 29}[platform.machine()]
def tried(request):
    done = libc.syscall(ioctl, 0, ctypes.c_ulong(request), ctypes.byref(ctypes.c_char(b"h")))
    return "typed" if done == 0 else errno.errorcode[ctypes.get_errno()]
print("TIOCSTI", tried(termios.TIOCSTI), tried(termios.TIOCSTI | 1 << 32), "TIOCSETD", tried(termios.TIOCSETD))
print("size", struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))[:2], os.isatty(0))
"""


@pytest.mark.security
def test_pk11_nothing_is_typed_into_the_terminal_that_a_shell_is_given(alcove: Cli) -> None:
    """CVE-2017-5226; the high half of the request is not the kernel's to read (CVE-2019-10063)."""
    with at_terminal(alcove, "shell", *BASH) as keyboard:
        keyboard.until(PROMPT)
        keyboard.line(f"cat > typist.py <<'END'\r{TYPIST.strip().replace(chr(10), chr(13))}\rEND")
        shown = keyboard.line("python3 typist.py")
        assert "TIOCSTI EPERM EPERM TIOCSETD EPERM" in shown
        assert "size (30, 100) True" in shown  # the same descriptor is a terminal, and answers what is harmless
        keyboard.type(b"exit\r")
        assert keyboard.end() == 0
