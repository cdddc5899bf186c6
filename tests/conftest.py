"""What every test run shares: who runs what, a store of its own, other launchers, and that nothing outlives it.

Tests run against the installed package. `root` and `user` marks decide who runs a test; nothing is skipped for it.
"""

import importlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.leftovers import Leftovers

TREE = Path(__file__).parent.parent
LEAKS = pytest.StashKey[Leftovers]()
PATCH = pytest.StashKey[pytest.MonkeyPatch]()
HOME = pytest.StashKey[Path]()

# What Hypothesis learns stays out of the tree, and out of the way of a user who may not write there
STORAGE = TREE / "build" if os.access(TREE / "build", os.W_OK) else Path(tempfile.gettempdir())
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(STORAGE / "hypothesis"))

# The command line, with the launcher that --native names
WITH_NATIVE = """
import pathlib, sys
from alcove.local import native
launcher = pathlib.Path(sys.argv.pop(1))
native.find = lambda: launcher
from alcove.cli import main
sys.argv[0] = "alcove"
main()
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native", metavar="PATH", help="test with this launcher (or ALCOVE_TEST_NATIVE)")
    parser.addoption(
        "--leaks",
        choices=("fail", "warn", "off"),
        help="what it means that a process or cgroup named alcove-* appeared during the run and stayed, where nothing "
        "shows whose it is; this run's own always fail it (or ALCOVE_TEST_LEAKS; warn)",
    )


def pytest_configure(config: pytest.Config) -> None:
    patch = config.stash[PATCH] = pytest.MonkeyPatch()
    leave_layers_alone(patch)
    if hasattr(config, "workerinput"):  # an xdist worker has the controller's environment
        use_native(patch, os.environ.get("ALCOVE_TEST_NATIVE"))
        return
    native = config.getoption("native") or os.environ.get("ALCOVE_TEST_NATIVE")
    for name in list(os.environ):
        if name.startswith(("ALCOVE_", "HARN_")) and not name.startswith("ALCOVE_TEST_"):
            patch.delenv(name)
    home = config.stash[HOME] = Path(tempfile.mkdtemp(prefix="alcove-home-"))
    run = uuid.uuid4().hex
    patch.setenv("ALCOVE_HOME", str(home))
    patch.setenv("ALCOVE_TEST_RUN", run)
    use_native(patch, native)
    config.stash[LEAKS] = Leftovers(run=run, places=[home])


def leave_layers_alone(patch: pytest.MonkeyPatch) -> None:
    """What is done behind everybody's back is done in tests of that alone, and by other processes."""
    try:
        patch.setattr(importlib.import_module("alcove.local.chores"), "nudge", lambda _root: None)
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("alcove"):
            raise


@pytest.fixture
def tmp_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show sessions nothing of this interpreter that lies in /tmp, for tests of all that is there."""
    layout = importlib.import_module("alcove.local.cell.layout")
    places = layout.interpreter_places
    elsewhere = lambda: [path for path in places() if not path.startswith(("/tmp/", "/var/tmp/"))]  # noqa: E731
    monkeypatch.setattr(layout, "interpreter_places", elsewhere)


def use_native(patch: pytest.MonkeyPatch, path: str | None) -> None:
    if not path:
        return
    launcher = Path(path).resolve(strict=True)
    patch.setenv("ALCOVE_TEST_NATIVE", str(launcher))
    try:
        native = importlib.import_module("alcove.local.native")
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("alcove"):
            raise
        return
    patch.setattr(native, "find", lambda: launcher)


def pytest_unconfigure(config: pytest.Config) -> None:
    if patch := config.stash.get(PATCH, None):
        patch.undo()
    if home := config.stash.get(HOME, None):
        # not shutil: a tree that a hostile guest left can be deeper than Python's stack
        subprocess.run(["rm", "-rf", "--one-file-system", str(home)], check=False)


def belongs(item: pytest.Item, *, as_root: bool) -> bool:
    user = item.get_closest_marker("user")
    if user and item.get_closest_marker("root"):
        raise pytest.UsageError(f"{item.nodeid} is marked both root and user")
    if as_root:
        return not (user and user.kwargs.get("only", False))
    return item.get_closest_marker("root") is None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    as_root = os.geteuid() == 0
    others = [item for item in items if not belongs(item, as_root=as_root)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if belongs(item, as_root=as_root)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    leftovers = session.config.stash.get(LEAKS, None)
    if leftovers is None:
        return
    mode = session.config.getoption("leaks") or os.environ.get("ALCOVE_TEST_LEAKS", "warn")
    basetemp = getattr(session.config, "_tmp_path_factory", None)
    if basetemp is not None:
        leftovers.places.append(basetemp.getbasetemp())
    leftovers.look(mode)
    if leftovers.fatal and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    leftovers = config.stash.get(LEAKS, None)
    if leftovers is not None and leftovers.found:
        terminalreporter.section("left over by this run" if leftovers.fatal else "new since this run began")
        for line in leftovers.found:
            terminalreporter.write_line(line)


@dataclass(frozen=True)
class PlainUser:
    """Somebody without privileges: for root the user made for tests, else the one who runs them."""

    name: str
    uid: int
    gid: int
    python: Path

    def argv(self, *command: str) -> list[str]:
        if os.geteuid() == self.uid:
            return list(command)
        identity = [f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--inh-caps=-all"]
        # env: setpriv keeps root's capabilities until it executes something, so it could start what this user cannot
        return ["setpriv", *identity, "env", "--", *command]

    def run(self, *command: str, env: dict[str, str] | None = None, cwd: str = "/") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **(env or {})}
        return subprocess.run(
            self.argv(*command),
            capture_output=True,
            check=False,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=50,
        )


def script(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(TREE / "scripts" / name), *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "VENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def plain_user() -> PlainUser:
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid())
        return PlainUser(me.pw_name, me.pw_uid, me.pw_gid, Path(sys.executable))
    name = script("plain-user.sh")
    python = os.environ.get("ALCOVE_TEST_USER_PYTHON") or script("user-python.sh", name).splitlines()[-1]
    them = pwd.getpwnam(name)
    return PlainUser(name, them.pw_uid, them.pw_gid, Path(python))


@pytest.fixture(scope="session")
def native_variant() -> Callable[..., Path]:
    """Build a launcher with meson options for tests: `native_variant("no-seccomp", "-Doff=seccomp")`."""

    def build(name: str, *options: str) -> Path:
        return Path(script("native-variant.sh", name, *options).splitlines()[-1])

    return build


@pytest.fixture(scope="session")
def alcove_command() -> list[str]:
    """Return the argv of the command line as users run it, or of the same with the launcher under test."""
    native = os.environ.get("ALCOVE_TEST_NATIVE")
    if native:
        return [sys.executable, "-c", WITH_NATIVE, native]
    return [str(Path(sys.executable).parent / "alcove")]


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """Yield a directory whose path is short enough for sockets, whoever runs the test."""
    directory = Path(tempfile.mkdtemp(prefix="al-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)
