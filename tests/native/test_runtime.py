"""The launcher's own C library (native/runtime), which takes the place of the host's in a released launcher."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
LAUNCHER_SOURCES = sorted(NATIVE.glob("*.c"))
ROUNDS = 50_000

#: What native/runtime/format.c understands of printf(3).
CONVERSION = re.compile(r"%(?:%|c|(?:\.(?:\d+|\*))?s|(?:l|ll|z)?[duox])")
FORMAT = re.compile(r"\b(?:snprintf|dprintf|set_number)\((.*?)\);", re.DOTALL)
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')

Variant = Callable[..., Path]


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, check=False, text=True, timeout=60)


@pytest.fixture(scope="module")
def built(native_variant: Variant) -> Path:
    """Build the runtime's own tests; return the directory that they are in."""
    directory = native_variant("runtime").parent
    log = (directory.parent / "meson-logs" / "meson-log.txt").read_text()
    if not re.search(r"C library\s*: our own", log):
        pytest.skip("this architecture or toolchain takes the host's C library")
    for program in ("runtime-calls", "runtime-strings"):
        done = run(Path(sys.executable).parent / "meson", "compile", "-C", str(directory.parent), program)
        assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_strings_and_formats_are_those_of_the_hosts_library(built: Path) -> None:
    seed = str(int.from_bytes(os.urandom(3), "little"))
    done = run(built / "runtime-strings", str(ROUNDS), seed)
    assert done.stdout == f"{ROUNDS} rounds\n", f"seed {seed}: {done.stdout}"


def test_calls_signals_births_and_memory_do_what_they_are_named_after(built: Path) -> None:
    assert run(built / "runtime-calls").stdout == "ok\n"


def test_an_overrun_of_the_stack_ends_the_process(built: Path) -> None:
    assert run(built / "runtime-calls", "smash").returncode in {-signal.SIGILL, -signal.SIGTRAP}


def test_tables_of_pointers_are_constant_once_it_runs(built: Path) -> None:
    assert run(built / "runtime-calls", "constant").returncode == -signal.SIGSEGV


def test_nothing_of_the_hosts_library_is_left(built: Path) -> None:
    """It would read the processor's features at every start, and be paid for by every process."""
    text = (built / "alcove-warden").read_bytes()
    assert b"GLIBC" not in text
    assert b"ld-musl" not in text
    assert len(text) < 150_000


@pytest.mark.parametrize("source", LAUNCHER_SOURCES, ids=lambda path: path.name)
def test_every_format_is_one_that_the_runtime_knows(source: Path) -> None:
    if source.name == "fuzz_plan.c":
        return
    for call in FORMAT.findall(source.read_text()):
        for literal in LITERAL.findall(call):
            assert "%" not in CONVERSION.sub("", literal), literal


def test_a_format_beyond_them_would_be_noticed() -> None:
    for unknown in ("%5d", "%-s", "%i", "%p", "%hd", "%f", "%s %"):
        assert "%" in CONVERSION.sub("", unknown)
