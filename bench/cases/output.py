"""Captured output: everything kept, and kept only up to Alcove's default cap."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from bench.contender import Case, Contender, Finished, Metric, Rounds, Run, Sample, WrongResultError
from bench.ground import MARKER, Ground
from bench.local import Alcove
from bench.runtime import Runtime
from bench.targets import BARE

# Above what is written, so that nothing is left out.
_HEADROOM = 1.28


def throughput(run: Run, command: Sequence[str], size: int, *, whole: bool = True) -> Sample:
    def sample() -> Mapping[str, float]:
        done = run(command).checked()
        _complete(done, size, whole=whole)
        return {"throughput": size / 1e6 / done.seconds}

    return sample


def _complete(done: Finished, size: int, *, whole: bool) -> None:
    kept = len(done.stdout)
    if kept + done.omitted != size or whole != (done.omitted == 0):
        raise WrongResultError(f"{kept} bytes kept and {done.omitted} left out of {size}")


@contextmanager
def _peer(ground: Ground, runtime: Runtime, case: str, command: Sequence[str], size: int) -> Iterator[Sample]:
    workspace = ground.workspace(case, runtime.name)
    run = runtime.once(workspace)
    run(["test", "-e", MARKER]).checked()
    _prepare(run, command, size)
    yield throughput(run, command, size)


@contextmanager
def alcove_output(alcove: Alcove, limit: int | None, command: Sequence[str], size: int) -> Iterator[Sample]:
    with alcove.sessions(1) as (session,):

        def run(command: Sequence[str]) -> Finished:
            return alcove.wait(alcove.exec(session, command, output_limit=limit))

        _prepare(run, command, size)
        yield throughput(run, command, size, whole=limit is not None)


def _prepare(run: Run, command: Sequence[str], size: int) -> None:
    if command[0] == "cat":
        # Real pages, in the page cache by the time the warm-up has read them.
        run(["/bin/sh", "-ec", f"head -c {size} /dev/zero > {command[1]}"]).checked()


def _contenders(case: str, command: Sequence[str], size: int, ground: Ground) -> Iterator[Contender]:
    for runtime in (ground.bare, *ground.peers):
        yield Contender(runtime.name, partial(_peer, ground, runtime, case, command, size))
    if ground.alcove is not None:
        limit = int(size * _HEADROOM)
        yield Contender(ground.alcove.name, partial(alcove_output, ground.alcove, limit, command, size))
        yield Contender("alcove, default cap", partial(alcove_output, ground.alcove, None, command, size))


def _case(case: str, title: str, command: Sequence[str], size: int, rounds: Rounds, *, quick: bool = True) -> Case:
    return Case(
        id=case,
        title=title,
        metrics=(Metric("throughput", "MB/s", "higher"),),
        baseline=BARE,
        rounds=rounds,
        contenders=partial(_contenders, case, command, size),
        quick=quick,
    )


def _head(size: int) -> list[str]:
    return ["head", "-c", str(size), "/dev/zero"]


_MB = 10**6

OUTPUT_CASES = (
    _case("output-head", "200 MB of head -c captured", _head(200 * _MB), 200 * _MB, Rounds(15, 5, 1)),
    _case("output-cat", "200 MB of cat captured", ["cat", "zeros"], 200 * _MB, Rounds(15, 5, 1)),
    _case("output-1g", "1 GB of head -c captured", _head(1000 * _MB), 1000 * _MB, Rounds(5, 3, 1), quick=False),
)
