"""Work on files in /workspace against the same work on the bare file system, and a Python start."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from bench.contender import Case, Contender, Metric, Rounds, Run, Sample, led_in
from bench.ground import MARKER, Ground
from bench.hostview import guest_python
from bench.runtime import Runtime
from bench.targets import BARE

# Written inside each sandbox by its own command, so that every contender's files came the same way.
_MAKE_TAR = """
import io, random, sys, tarfile
name, count = sys.argv[1], int(sys.argv[2])
source = random.Random(count)
with tarfile.open(name, "w") as archive:
    for number in range(count):
        body = source.randbytes(source.randrange(64, 4000))
        entry = tarfile.TarInfo(f"d{number // 100:02}/f{number:04}")
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
"""

# No collection in the background: it would run into the next contender's sample.
_SETTINGS = (
    "user.name=bench",
    "user.email=bench@example.org",
    "init.defaultBranch=main",
    "gc.auto=0",
    "maintenance.auto=false",
)
_GIT = " ".join(["GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git", *(f"-c {setting}" for setting in _SETTINGS)])


def _shell(script: str) -> list[str]:
    return ["/bin/sh", "-ec", script]


@dataclass(frozen=True)
class Chore:
    """What is done once, before each sample, in the sample and as the proof that it was done.

    ``{n}`` stands for the sample's number. Nothing is deleted before the whole run is over: ext4 without a journal (a
    micro-VM's, say) steps over each inode that was deleted in the same block group within the last minutes, at every
    creation (recently_deleted() in fs/ext4/ialloc.c). Measured, that makes a file thirty times as dear, and one
    contender pay for another's clearing up.
    """

    once: Sequence[Sequence[str]] = ()
    before: str = ""
    timed: str = ""
    proof: str = ""


def untar(files: int) -> Chore:
    return Chore(
        once=[_make_tar(files)],
        before="mkdir out{n}",
        timed="exec tar -xf in.tar -C out{n}",
        proof=f'test "$(find out{{n}} -type f | wc -l)" = {files}',
    )


def git(files: int) -> Chore:
    return Chore(
        once=[_make_tar(files), _shell("mkdir -p repo && tar -xf in.tar -C repo")],
        before=f"cd repo && if test -e .git; then mv .git ../old{{n}}; fi && {_GIT} init -q",
        timed=f"cd repo && {_GIT} add -A && {_GIT} commit -q -m all",
        proof=f'cd repo && test "$({_GIT} ls-tree -r HEAD | wc -l)" = {files}',
    )


def _make_tar(files: int) -> list[str]:
    return [guest_python(), "-I", "-c", _MAKE_TAR, "in.tar", str(files)]


@contextmanager
def _chore(ground: Ground, runtime: Runtime, case: str, chore: Chore) -> Iterator[Sample]:
    with _runner(ground, runtime, case) as run:
        for command in chore.once:
            run(command).checked()
        numbers = itertools.count()
        yield lambda: {"time": do(chore, run, next(numbers)) * 1e3}


def do(chore: Chore, run: Run, number: int) -> float:
    """The seconds of one sample, with what has to happen before it and its proof."""
    before, timed, proof = (
        _shell(text.replace("{n}", str(number))) for text in (chore.before, chore.timed, chore.proof)
    )
    run(before).checked()
    os.sync()  # or the last contender's dirty pages are written on this one's time
    seconds = run(timed).checked().seconds
    run(proof).checked()
    return seconds


@contextmanager
def _python(ground: Ground, runtime: Runtime) -> Iterator[Sample]:
    with _runner(ground, runtime, "python") as run:
        yield lambda: {"time": led_in(run, [guest_python(), "-I", "-c", "pass"]).seconds * 1e3}


@contextmanager
def _runner(ground: Ground, runtime: Runtime, case: str) -> Iterator[Run]:
    workspace = ground.workspace(case, runtime.name)
    with runtime.live(workspace) if runtime.joins else nullcontext(runtime.once(workspace)) as run:
        if runtime is not ground.alcove:
            run(["test", "-e", MARKER]).checked()
        yield run


def _chore_contenders(case: str, chore: Chore, ground: Ground) -> Iterator[Contender]:
    for runtime in ground.runtimes():
        yield Contender(runtime.name, partial(_chore, ground, runtime, case, chore))


def _python_contenders(ground: Ground) -> Iterator[Contender]:
    for runtime in ground.runtimes():
        yield Contender(runtime.name, partial(_python, ground, runtime))


def _case(case: str, title: str, contenders: Callable[[Ground], Iterator[Contender]], rounds: Rounds) -> Case:
    return Case(
        id=case,
        title=title,
        metrics=(Metric("time", "ms"),),
        baseline=BARE,
        rounds=rounds,
        contenders=contenders,
    )


def _files(case: str, title: str, chore: Chore) -> Case:
    return _case(case, title, partial(_chore_contenders, case, chore), Rounds(full=11, quick=3, warmup=1))


IO_CASES = (
    _files("untar", "untar of 3,000 files in the workspace", untar(3000)),
    _files("git", "git add and commit of 2,000 files in the workspace", git(2000)),
    _case("python", "a Python start in the sandbox", _python_contenders, Rounds(full=100, quick=20, warmup=3)),
)
