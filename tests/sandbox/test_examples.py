"""The examples, run as a person runs them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from alcove.testing import no_leaks
from tests.local import outside

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.user


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def output(name: str, store: Path) -> str:
    """Return what an example prints, whose sessions are all gone afterwards."""
    environment = os.environ | {"ALCOVE_HOME": str(store), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        capture_output=True,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert list((store / "sessions").iterdir()) == []
    return done.stdout


def test_the_demo_shows_that_everything_was_contained(store: Path) -> None:
    with no_leaks():
        shown = output("demo", store)
    assert "1581 words counted" in shown
    assert "NOT CONTAINED" not in shown
    assert "SOMETHING" not in shown
    assert shown.count("  contained  ") == 13
    assert shown.count("  nothing    ") == 5


def test_the_demo_fails_when_something_was_not_contained() -> None:
    demo = loaded("demo")
    lines = [{"attack": str(number), "got": "", "contained": True} for number in range(13)]
    assert demo.contained(lines, {"its input is what it was": True})
    assert not demo.contained(lines, {"its input is what it was": False})
    assert not demo.contained([*lines[:12], {"attack": "x", "got": "", "contained": False}], {})
    assert not demo.contained(lines[:12], {})  # it never came to the last one


def test_the_demos_oracles_see_what_they_look_for() -> None:
    demo = loaded("demo")
    with subprocess.Popen(["sleep", "1000"], executable="/bin/sleep") as process:
        try:
            outside.command_line(process.pid)  # it has one, as soon as its execve is over
            assert not demo.running("alcove-demo-nobody")
            assert demo.running("sleep")
        finally:
            process.kill()
    with demo.socket.create_server(("127.0.0.1", 0)) as service:
        assert not demo.connected(service)
        with demo.socket.create_connection(service.getsockname()):
            assert demo.connected(service)


def test_the_agents_shell(store: Path) -> None:
    shown = output("agent_shell", store)
    assert "NameError: name 'value' is not defined" in shown
    assert "2.0\n[exit code 0]" in shown
    assert "No such file or directory" in shown
    assert "characters left out" in shown


def test_the_code_interpreter(store: Path) -> None:
    assert output("code_interpreter", store).splitlines() == [
        "[1] 285",
        "[2] done",
        "[3] ZeroDivisionError: division by zero",
        "[4] still here: 81",
        "squares.csv: 56 bytes",
    ]


def test_the_grader(store: Path) -> None:
    verdicts = dict(line.split(maxsplit=1) for line in output("grader", store).splitlines()[1:])
    assert verdicts["grace"] == "passed"
    assert verdicts["ada"] == "failed for ``: EOFError: EOF when reading a line"
    assert verdicts["loop"] == "too slow"
    assert verdicts["hog"] == "too much memory"
    assert verdicts["bomb"].startswith(("failed", "too slow"))
    assert verdicts["cheat"].startswith("failed")


def test_the_best_of_many(store: Path) -> None:
    shown = output("best_of", store).splitlines()
    assert shown[0] == "the prepared session still says: unsolved"
    verdicts = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown[1:5]}
    assert verdicts == {
        "careless": "failed, 3 files",
        "destructive": "failed, 2 files",
        "wasteful": "solved, 5 files",
        "right": "solved, 3 files",
    }
    assert shown[5] == "best: right, whose answer ends with 2000"
