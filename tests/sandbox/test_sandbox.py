"""`Sandbox`: the synchronous class, over real sessions."""

import asyncio
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from alcove import (
    ExecError,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    LocalSandboxConfig,
    Sandbox,
    SandboxIoError,
    SandboxState,
    SessionNotFound,
    Unrestricted,
    Unsupported,
)
from alcove.sandbox import CommandError
from alcove.testing import FakeBackend
from tests.sandbox.store import ids

pytestmark = pytest.mark.user


def test_three_lines_run_something(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        assert box.run("echo hello from inside | tr a-z A-Z").stdout == "HELLO FROM INSIDE\n"
    assert ids(config) == []


def test_a_string_is_the_shells_and_a_list_is_argv(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        assert box.run("echo $((6 * 7))").stdout == "42\n"
        assert box.run(["echo", "$((6 * 7))", "a b"]).stdout == "$((6 * 7)) a b\n"
        assert box.run(("printf", "%s", "x")).stdout == "x"
        assert box.exec(ExecRequest("echo", ["raw"], raw=True)).stdout_base64 == "cmF3Cg=="


def test_everything_that_a_command_takes(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        assert box.run("cat; echo $A; pwd", cwd="/tmp", env={"A": "1"}, stdin="in\n").stdout == "in\n1\n/tmp\n"
        assert box.run(["od", "-An", "-tx1"], stdin=b"\xff\x00").stdout.split() == ["ff", "00"]
        late = box.run("echo before; exec sleep 60", timeout=0.3)
        assert (late.timed_out, late.exit_code, late.stdout) == (True, -1, "before\n")
        assert box.run("exit 3").exit_code == 3


@pytest.mark.parametrize("command", ["", "  ", [], [""], b"ls", ["ls", 1]])
def test_what_is_no_command(config: LocalSandboxConfig, command: object) -> None:
    with Sandbox(config=config) as box, pytest.raises(InvalidRequest):
        box.run(command)  # type: ignore[arg-type]


def test_check_raises_what_tells_all(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        assert box.run("true", check=True).success
        with pytest.raises(CommandError) as caught:
            box.run("for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3", check=True)
        with pytest.raises(CommandError, match="was killed at its timeout"):
            box.run(["sleep", "60"], timeout=0.2, check=True)
        with pytest.raises(CommandError, match="exited with code 143: killed by signal 15"):
            box.run("kill $$", check=True)
    error = caught.value
    assert isinstance(error, ExecError)
    assert error.code == "exec"
    assert error.result.exit_code == 3
    assert str(error).splitlines() == [
        "sandbox exec failed: `for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3` exited with code 3",
        *(f"line {number}" for number in range(3, 8)),
    ]
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.result, again.command) == (str(error), error.result, error.command)
    assert len(str(CommandError("x" * 10_000, error.result))) < 400


def test_there_is_no_network_unless_asked(config: LocalSandboxConfig) -> None:
    host = os.readlink("/proc/self/ns/net")
    for box, shared in ((Sandbox(config=config), False), (Sandbox(config=config, network=Unrestricted()), True)):
        with box:
            assert (box.run("readlink /proc/self/ns/net").stdout.strip() == host) is shared
            assert box.session.metadata["network"] == ("host" if shared else "none")


def test_the_spec_in_keywords(config: LocalSandboxConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    with Sandbox(
        config=config,
        session_id="mine",
        labels={"why": "test"},
        mounts=[FilesystemMount(tmp_path, "/data")],
        wall_time=0.3,
        pids=50,
        open_files=60,
        output_limit=100,
    ) as box:
        assert (box.session.id, box.session.labels) == ("mine", {"why": "test"})
        assert repr(box) == "<Sandbox mine>"
        assert box.run("cat /data/file; ulimit -n").stdout == "from the host\n60\n"
        assert box.run("sleep 60").timed_out
        assert box.run("head -c 500 /dev/zero").stdout_omitted == 400
        assert "pids=50" in box.session.metadata["limits"]


def test_a_directory_is_attached_live(config: LocalSandboxConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    with Sandbox(config=config) as box:
        assert box.attach(tmp_path, "/data").mounts[-1].target == "/data"
        assert box.session.mounts[-1].host_path == str(tmp_path)
        assert box.run("cat /data/file && ! touch /data/new 2>/dev/null").stdout == "from the host\n"
        box.attach("", "/fresh", access=FilesystemAccess.READ_WRITE)
        box.run("touch /fresh/new", check=True)


def test_what_is_not_open_says_so(config: LocalSandboxConfig) -> None:
    box = Sandbox(config=config)
    assert repr(box) == "<Sandbox not open>"
    with pytest.raises(InvalidRequest, match=r"with Sandbox\(\) as box"):
        box.run("true")
    with box:
        assert box.run("true").success
        session_id = box.session.id
    for use in (lambda: box.run("true"), lambda: box.session, box.start):
        with pytest.raises(SessionNotFound, match=session_id):
            use()
    box.terminate()


def test_terminate_before_the_end(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        box.terminate()
        assert ids(config) == []
        box.terminate()
    with Sandbox(config=config) as box:
        Sandbox.connect(box.session.id, config=config).start().terminate()
        with pytest.raises(SessionNotFound):
            box.run("true")


def test_a_failure_inside_ends_the_session(config: LocalSandboxConfig) -> None:
    with pytest.raises(ZeroDivisionError), Sandbox(config=config):
        _ = 1 / 0
    assert ids(config) == []
    with (
        pytest.raises(SandboxIoError, match="mount source"),
        Sandbox(config=config, mounts=[FilesystemMount("/nowhere/at/all", "/data")]),
    ):
        pass
    assert ids(config) == []


def test_a_kept_session_is_connected_to_and_left_alone(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config, keep=True) as box:
        box.run("echo kept > file", check=True)
    (session_id,) = ids(config)
    with Sandbox.connect(session_id, config=config) as again:
        assert again.session.state is SandboxState.RUNNING
        assert again.run("cat file").stdout == "kept\n"
    assert ids(config) == [session_id]
    again = Sandbox.connect(session_id, config=config).start()
    again.terminate()
    with pytest.raises(SessionNotFound):
        Sandbox.connect(session_id, config=config).start()
    with pytest.raises(SessionNotFound):
        Sandbox.connect("never", config=config).start()


def test_other_backends() -> None:
    backend = FakeBackend()
    with Sandbox(backend=backend) as box:
        assert box.session.backend == "fake"
        assert box.run(["echo", "hello"]).stdout == "hello\n"
    with Sandbox(backend="fake") as box:
        assert box.run(["echo", "hello"]).stdout == "hello\n"
    with pytest.raises(InvalidRequest, match="no backend is called `nothing`"):
        Sandbox(backend="nothing")
    with pytest.raises(InvalidRequest, match="`config` is the local backend's"):
        Sandbox(backend="fake", config=LocalSandboxConfig())


def test_bad_keywords_are_refused_before_anything_is_made() -> None:
    bad: list[dict[str, Any]] = [{"wall_time": -1}, {"memory_mb": 1.5}, {"labels": {"a": 1}}, {"session_id": " "}]
    for keywords in bad:
        with pytest.raises(InvalidRequest):
            Sandbox(**keywords)
    with pytest.raises(TypeError, match="memory"):
        Sandbox(memory="512M")  # type: ignore[call-arg]


# Where it runs


async def test_it_works_inside_a_running_loop(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        assert box.run("echo in a notebook").stdout == "in a notebook\n"
        assert await asyncio.to_thread(lambda: box.run("echo in a thread").stdout) == "in a thread\n"


def test_many_threads_share_one_loop_and_one_session(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box, ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda number: box.run(["echo", str(number)]).stdout, range(40))
        assert list(answers) == [f"{number}\n" for number in range(40)]
        assert [thread.name for thread in threading.enumerate()].count("alcove-portal") == 1


def test_many_sandboxes_at_once(config: LocalSandboxConfig) -> None:
    def one(number: int) -> str:
        with Sandbox(config=config) as box:
            return box.run(["echo", str(number)]).stdout

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(one, range(12))) == [f"{number}\n" for number in range(12)]


def test_an_interrupt_kills_the_command(config: LocalSandboxConfig) -> None:
    """Ctrl-C while `run` waits: the command is gone when KeyboardInterrupt arrives, the session is not."""
    with Sandbox(config=config) as box:
        box.run("mkfifo begun", check=True)

        def interrupt() -> None:
            box.run("cat begun", timeout=20, check=True)
            os.kill(os.getpid(), signal.SIGINT)

        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            box.run("(setsid sleep 61 &); echo > begun; exec sleep 61")
        other.join()
        assert box.run("pgrep -f '[s]leep 61'").exit_code == 1


def test_a_collected_sandbox_ends(config: LocalSandboxConfig) -> None:
    Sandbox(config=config).start().run("true")


def test_it_sleeps_and_wakes(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        box.run("echo kept > note", check=True)
        assert box.suspend().state is SandboxState.SUSPENDED
        assert box.session.state is SandboxState.SUSPENDED
        assert box.run("cat note").stdout == "kept\n"
        assert box.resume().state is SandboxState.RUNNING


def test_a_backend_that_cannot_suspend_says_so() -> None:
    class Restless(FakeBackend):
        suspend = None  # type: ignore[assignment]

    with Sandbox(backend=Restless()) as box, pytest.raises(Unsupported, match="does not support suspending a session"):
        box.suspend()
