"""Ordinary programs under the default program: what they print is what they print without it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from alcove.local import seccomp
from tests.seccomp.seccomp_child import ARCH

pytestmark = pytest.mark.user

PROGRAMS = Path(__file__).parent / "programs"
INTERPRETERS = {".py": [sys.executable], ".js": ["node"], ".sh": ["sh", "-eu"]}

# Installs the program named by the first argument, then becomes the rest. Python ignores SIGPIPE; others do not.
LAUNCH = """
import ctypes, os, signal, struct, sys
code = open(sys.argv[1], "rb").read()
buffer = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None)
zero = ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
fprog = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(22, ctypes.c_ulong(2), fprog, zero, zero) == 0
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def run_in(directory: Path, command: list[str], program: bytes | None) -> tuple[int, str, str]:
    """How `command` ended and what it said, in a fresh directory."""
    directory.mkdir()
    if program is not None:
        file = directory.with_suffix(".bpf")
        file.write_bytes(program)
        command = [sys.executable, "-I", "-c", LAUNCH, str(file), *command]
    env = os.environ | {"HOME": str(directory), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "no_proxy": "*"}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=50)
    return done.returncode, done.stdout, done.stderr


DEFAULT, DEBUG, SET_ID = (
    seccomp.program(ARCH, debug=debug, set_id=set_id)
    for debug, set_id in ((False, False), (True, False), (False, True))
)


def scripts() -> Iterator[ParameterSet]:
    """Each file of programs/, named after the program that it tries."""
    for path in sorted(PROGRAMS.glob("*.*")):
        absent = shutil.which(path.stem) is None
        yield pytest.param(path, id=path.stem, marks=pytest.mark.skipif(absent, reason=f"{path.stem} is not installed"))


@pytest.mark.parametrize("script", list(scripts()))
def test_programs_run_as_they_do_without(script: Path, tmp_path: Path) -> None:
    command = [*INTERPRETERS[script.suffix], str(script)]
    free = run_in(tmp_path / "free", command, None)
    assert free[0] == 0, free
    assert run_in(tmp_path / "fenced", command, DEFAULT) == free


@pytest.mark.parametrize("script", ["python3.py", "tar.sh"])
def test_other_variants_run_them_too(script: str, tmp_path: Path) -> None:
    command = [*INTERPRETERS[Path(script).suffix], str(PROGRAMS / script)]
    assert run_in(tmp_path / "debug", command, DEBUG) == run_in(tmp_path / "set-id", command, SET_ID)


def test_the_launcher_does_install(tmp_path: Path) -> None:
    """Without this, the tests above would pass with no filter at all."""
    command = ["sh", "-c", "touch f; chmod u+s f"]
    assert run_in(tmp_path / "free", command, None)[0] == 0
    assert run_in(tmp_path / "set-id", command, SET_ID)[0] == 0
    assert "Operation not permitted" in run_in(tmp_path / "fenced", command, DEFAULT)[2]


def test_an_archive_with_set_id_files_needs_the_variant(tmp_path: Path) -> None:
    make = "touch f; mkdir d; chmod 4755 f; chmod 2755 d; tar cf ../a.tar f d"
    assert run_in(tmp_path / "made", ["sh", "-ec", make], None)[0] == 0
    extract = ["sh", "-c", "tar xpf ../a.tar; stat -c %a f d"]
    assert run_in(tmp_path / "set-id", extract, SET_ID) == (0, "4755\n2755\n", "")
    code, modes, said = run_in(tmp_path / "fenced", extract, DEFAULT)
    assert (code, "Operation not permitted" in said) == (0, True)
    assert {int(mode, 8) & 0o6000 for mode in modes.split()} == {0}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_strace_is_for_debug(tmp_path: Path) -> None:
    command = ["strace", "-f", "-e", "trace=execve", "true"]
    assert run_in(tmp_path / "free", command, None)[0] == 0
    assert run_in(tmp_path / "debug", command, DEBUG)[0] == 0
    assert run_in(tmp_path / "plain", command, DEFAULT)[0] != 0
