"""The command line as a whole process, beside interpreters that do next to nothing."""

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.contender import Case, Contender, Metric, Rounds, Sample, WrongResultError, led_in, run
from bench.ground import Ground
from bench.targets import IMPORT_ASYNCIO


def command_line() -> list[str]:
    """The installed ``alcove`` beside our interpreter, else the two lines that it would hold.

    Raises:
        WrongResultError: the distribution declares no such program.
    """
    script = Path(sys.executable).parent / "alcove"
    if os.access(script, os.X_OK):
        return [str(script)]
    for entry in importlib.metadata.entry_points(group="console_scripts", name="alcove"):
        module, _, function = entry.value.partition(":")
        return [sys.executable, "-c", f"import sys; from {module} import {function} as main; sys.exit(main())"]
    raise WrongResultError("no program named alcove is installed beside this interpreter")


@contextmanager
def _program(argv: Sequence[str]) -> Iterator[Sample]:
    def sample() -> Mapping[str, float]:
        return {"time": led_in(run, argv).seconds * 1e3}

    yield sample


@contextmanager
def _alcove_run() -> Iterator[Sample]:
    argv = [*command_line(), "run", "--"]
    # The control: the exit code that comes out is the command's, not the program's.
    run([*argv, "false"]).checked(1)
    with _program([*argv, "true"]) as sample:
        yield sample


def _contenders(ground: Ground) -> Iterator[Contender]:
    yield Contender("python -c pass", partial(_program, [sys.executable, "-c", "pass"]))
    yield Contender(IMPORT_ASYNCIO, partial(_program, [sys.executable, "-c", "import asyncio"]))
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, _alcove_run)


PROGRAM = Case(
    id="program",
    title="alcove run -- true, as a whole process",
    metrics=(Metric("time", "ms"),),
    baseline=IMPORT_ASYNCIO,
    rounds=Rounds(full=60, quick=15, warmup=2),
    contenders=_contenders,
)
