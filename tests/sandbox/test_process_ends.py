"""What becomes of open sandboxes when their process forks, is interrupted or ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from alcove import LocalSandboxConfig
from tests.cli.cli import WITHIN, read_until
from tests.sandbox.store import ids

pytestmark = pytest.mark.user

PREAMBLE = """
import asyncio, os, signal, sys, threading
from threading import Thread
from alcove import AsyncSandbox, LocalSandboxConfig, Sandbox
from alcove.local import native
config = LocalSandboxConfig(root_dir=sys.argv[1], native=sys.argv[2] or None)
def ready():
    os.write(1, b"ready\\n")
"""


@contextmanager
def program(config: LocalSandboxConfig, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that has `config`; every warning of its is an error on its stderr."""
    argv = [sys.executable, "-W", "error", "-c", PREAMBLE + text, str(config.root_dir)]
    argv.append(os.environ.get("ALCOVE_TEST_NATIVE", ""))
    with subprocess.Popen(argv, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def done(config: LocalSandboxConfig, text: str) -> tuple[int, str, str]:
    with program(config, text) as process:
        out, err = process.communicate(timeout=WITHIN)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    "text",
    [
        "box = Sandbox(config=config).start(); box.run('sleep 60 &')",
        "boxes = [Sandbox(config=config).start() for _ in range(5)]; sys.exit(0)",
        "box = asyncio.run(AsyncSandbox(config=config).start())",
        "box = Sandbox(config=config).start(); box.run('seq 1 400 | xargs touch')",  # more than is removed at once
    ],
)
def test_the_interpreters_end_leaves_nothing(config: LocalSandboxConfig, text: str) -> None:
    assert done(config, text) == (0, "", "")
    assert ids(config) == []


def test_a_thread_that_still_waits_holds_nothing_back(config: LocalSandboxConfig) -> None:
    text = """
threading.excepthook = lambda told: None  # its session has ended under it
box = Sandbox(config=config).start()
box.run("mkfifo begun")
Thread(target=box.run, args=["echo > begun; sleep 60"], daemon=True).start()
box.run("cat begun")
"""
    assert done(config, text) == (0, "", "")
    assert ids(config) == []


def test_an_unhandled_error_leaves_nothing(config: LocalSandboxConfig) -> None:
    code, _, err = done(config, "box = Sandbox(config=config).start(); 1 / 0")
    assert code == 1
    assert err.rstrip().endswith("ZeroDivisionError: division by zero")
    assert ids(config) == []


def test_a_kept_session_outlives_the_interpreter(config: LocalSandboxConfig) -> None:
    assert done(config, "Sandbox(config=config, session_id='kept', keep=True).start()") == (0, "", "")
    assert ids(config) == ["kept"]
    assert done(config, "Sandbox.connect('kept', config=config).start()") == (0, "", "")
    assert ids(config) == ["kept"]
    assert done(config, "Sandbox.connect('kept', config=config).start().terminate()") == (0, "", "")


@pytest.mark.parametrize(
    "text",
    [
        "with Sandbox(config=config) as box:\n    box.run('true'); ready(); box.run('sleep 60')",
        "box = Sandbox(config=config).start(); ready(); box.run('sleep 60')",
        """
async def main():
    async with AsyncSandbox(config=config) as box:
        await box.run('true'); ready(); await box.run('sleep 60')
asyncio.run(main())
""",
    ],
)
def test_ctrl_c_leaves_nothing(config: LocalSandboxConfig, text: str) -> None:
    with program(config, text) as process:
        assert process.stdout
        assert process.stderr
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(2)
        _, err = process.communicate(timeout=WITHIN)
        assert process.returncode == -2
        assert err.decode().rstrip().endswith("KeyboardInterrupt")
    assert ids(config) == []


def test_a_forked_child_has_a_portal_of_its_own(config: LocalSandboxConfig) -> None:
    text = """
box = Sandbox(config=config).start()
box.run("echo from the parent > file")
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    seen = box.run("cat file").stdout
    with Sandbox(config=config) as own:
        seen += own.run("echo a session of the child").stdout
    with box:
        pass  # what the parent made is the parent's to end
    os.write(writing, seen.encode())
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(os.read(reading, 1000).decode(), end="")
print(box.run("cat file").stdout, end="")
"""
    lines = "from the parent\na session of the child\nfrom the parent\n"
    assert done(config, text) == (0, lines, "")
    assert ids(config) == []


def test_multiprocessing_by_fork(config: LocalSandboxConfig) -> None:
    text = """
import multiprocessing
def work(number):
    with Sandbox(config=config) as box:
        return box.run(["echo", str(number)]).stdout
with Sandbox(config=config) as box:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(4)), box.run("echo still here").stdout)
"""
    assert done(config, text) == (0, "['0\\n', '1\\n', '2\\n', '3\\n'] still here\n\n", "")
    assert ids(config) == []


def test_a_child_that_ends_early_disturbs_nobody(config: LocalSandboxConfig) -> None:
    text = """
box = Sandbox(config=config).start()
stop = threading.Event()
def work():
    while not stop.is_set():
        assert box.run("echo beat").stdout == "beat\\n"
thread = threading.Thread(target=work)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
stop.set()
thread.join()
print(box.run("echo fine").stdout, end="")
"""
    assert done(config, text) == (0, "fine\n", "")
    assert ids(config) == []
