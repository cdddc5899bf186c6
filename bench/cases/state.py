"""What lasts: a snapshot by size, a fork against a fresh session, many forks at once, a store opened again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contender import COMMAND_SECONDS, Case, Contender, Metric, Rounds, Sample, WrongResultError, run
from bench.ground import Ground, remove
from bench.hostview import guest_python
from bench.local import Alcove
from bench.targets import FRESH

if TYPE_CHECKING:
    from alcove import SandboxSession, SandboxSnapshot

FORKS = 1000
KEPT = 1000
DEPTHS = (1, 8, 32)
_TRUE = ["/bin/true"]
_FILL = """
import os, sys
files, size = map(int, sys.argv[1:])
body = os.urandom(size - 8)
for number in range(files):
    os.makedirs(f"d{number // 100:03}", exist_ok=True)
    with open(f"d{number // 100:03}/f{number:05}", "wb") as file:
        file.write(number.to_bytes(8) + body)
"""
_STAT = """
import os, time
def look(names):
    start = time.perf_counter_ns()
    for name in names:
        try:
            os.stat(name)
        except FileNotFoundError:
            pass
    return (time.perf_counter_ns() - start) / len(names) / 1e3
new = time.time_ns()  # no name that was asked for before: the kernel remembers what is not there
look([f"warm{new}-{number}" for number in range(200)])
print(look([f"absent{new}-{number}" for number in range(2000)]))
"""


@dataclass(frozen=True)
class Load:
    """What a session has in its workspace."""

    name: str
    files: int
    size: int

    def command(self) -> list[str]:
        return [guest_python(), "-I", "-c", _FILL, str(self.files), str(self.size)]


SMALL = Load("1 MB", 10, 100_000)
LARGE = Load("1 GB in 10,000 files", 10_000, 100_000)


@contextmanager
def _snapshot(alcove: Alcove, load: Load) -> Iterator[Sample]:
    """Each time another session with files of its own: what lies in a layer already costs nothing anyway."""
    yield lambda: alcove.wait(_snapshot_once(alcove, load))


async def _snapshot_once(alcove: Alcove, load: Load) -> Mapping[str, float]:
    session = await alcove.provision()
    try:
        (await alcove.exec(session.id, load.command())).checked()
        start = time.perf_counter_ns()
        snapshot = await alcove.backend.snapshot(session.id)
        taken = (time.perf_counter_ns() - start) / 1e6
        await alcove.backend.delete_snapshot(snapshot.snapshot_id)
    finally:
        await alcove.backend.terminate(session.id)
    return {"time": taken}


@contextmanager
def _loaded(alcove: Alcove, load: Load) -> Iterator[SandboxSnapshot]:
    """A snapshot of a session with that load, which has been begun with once."""
    session = alcove.wait(alcove.provision())
    try:
        alcove.wait(alcove.exec(session.id, load.command())).checked()
        snapshot = alcove.wait(alcove.backend.snapshot(session.id))
    finally:
        alcove.wait(alcove.backend.terminate(session.id))
    try:
        alcove.wait(_first_exec(alcove, snapshot))
        yield snapshot
    finally:
        alcove.wait(alcove.backend.delete_snapshot(snapshot.snapshot_id))


async def _begun(alcove: Alcove, snapshot: SandboxSnapshot | None) -> SandboxSession:
    from msgspec.structs import replace

    spec = alcove.spec()
    if snapshot is not None:
        spec = replace(spec, rootfs=f"snapshot:{snapshot.snapshot_id}")
    return await alcove.backend.provision(spec)


async def _first_exec(alcove: Alcove, snapshot: SandboxSnapshot | None) -> Mapping[str, float]:
    start = time.perf_counter_ns()
    session = await _begun(alcove, snapshot)
    try:
        (await alcove.exec(session.id, _TRUE)).checked()
        taken = (time.perf_counter_ns() - start) / 1e6
    finally:
        await alcove.backend.terminate(session.id)
    return {"time": taken}


@contextmanager
def _fresh(alcove: Alcove) -> Iterator[Sample]:
    yield lambda: alcove.wait(_first_exec(alcove, None))


@contextmanager
def _fork(alcove: Alcove, load: Load) -> Iterator[Sample]:
    with _loaded(alcove, load) as snapshot:
        yield lambda: alcove.wait(_first_exec(alcove, snapshot))


@contextmanager
def _resume(alcove: Alcove) -> Iterator[Sample]:
    with alcove.sessions(1) as (session,):

        async def once() -> Mapping[str, float]:
            await alcove.backend.suspend(session)
            start = time.perf_counter_ns()
            (await alcove.exec(session, _TRUE)).checked()
            return {"time": (time.perf_counter_ns() - start) / 1e6}

        yield lambda: alcove.wait(once())


@contextmanager
def _many_forks(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    with _loaded(alcove, LARGE if not ground.quick else SMALL) as snapshot:
        yield lambda: alcove.wait(_all_at_once(alcove, snapshot))


async def _all_at_once(alcove: Alcove, snapshot: SandboxSnapshot) -> Mapping[str, float]:
    made: list[SandboxSession] = []
    before = _used(alcove)
    start = time.perf_counter_ns()
    try:
        for _ in range(FORKS):
            made.append(await _begun(alcove, snapshot))  # noqa: PERF401 - what was made ends, whatever fails
        created = time.perf_counter_ns()
        answered = await alcove.all_answer([session.id for session in made])
        disk = _used(alcove) - before
    finally:
        await alcove.end([session.id for session in made])
    return {"answered": answered, "create": (created - start) / 1e9, "disk": disk / FORKS / 1e3}


def _used(alcove: Alcove) -> int:
    found = os.statvfs(alcove.backend.config.root_dir or "/")
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@contextmanager
def _depth(alcove: Alcove, depth: int) -> Iterator[Sample]:
    """What a name that is not there costs by the number of layers that have to be asked for it."""
    from alcove.local import chores

    flattened, session = chores.nudge, alcove.wait(alcove.provision())
    taken: list[str] = []
    try:
        setattr(chores, "nudge", lambda _: None)  # noqa: B010 - what is measured is not to be made short meanwhile
        for number in range(depth):
            alcove.wait(alcove.exec(session.id, ["touch", f"layer{number}"])).checked()
            taken.append(alcove.wait(alcove.backend.snapshot(session.id)).snapshot_id)

        def sample() -> Mapping[str, float]:
            done = alcove.wait(alcove.exec(session.id, [guest_python(), "-I", "-c", _STAT])).checked()
            return {"stat": float(done.stdout)}

        yield sample
    finally:
        setattr(chores, "nudge", flattened)  # noqa: B010
        alcove.wait(alcove.backend.terminate(session.id))
        for snapshot in taken:
            alcove.wait(alcove.backend.delete_snapshot(snapshot))


@contextmanager
def _reopen(ground: Ground) -> Iterator[Sample]:
    """A store after a power cut: sessions and snapshots without a process, opened by a program that just started."""
    from alcove import LocalSandbox, LocalSandboxConfig

    store = ground.workspace("reopen") / "s"
    kept = KEPT if not ground.quick else KEPT // 10
    alcove = Alcove(store)
    try:
        alcove.wait(_many_kept(alcove, kept))
        argv = [sys.executable, "-m", "bench.reopen", str(store)]

        def sample() -> Mapping[str, float]:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
            if done.returncode != 0:
                raise WrongResultError(f"bench.reopen ended with {done.returncode}: {done.stderr.strip()[-200:]}")
            told = json.loads(done.stdout)
            if (told["sessions"], told["snapshots"]) != (kept, kept):
                raise WrongResultError(f"{told} of {kept} sessions and snapshots each")
            return {"open": told["seconds"]}

        yield sample
    finally:
        backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
        alcove.wait(alcove.end([session.id for session in backend.sessions()]))
        alcove.close()
        remove(store.parent)


async def _many_kept(alcove: Alcove, count: int) -> None:
    """As a power cut leaves them: no process, no group."""
    for _ in range(count):
        session = await alcove.provision()
        (await alcove.exec(session.id, ["touch", "kept"])).checked()
        await alcove.backend.snapshot(session.id)


@dataclass(frozen=True)
class Archive:
    """What is packed and unpacked: a snapshot of a session, and the same files in a directory."""

    snapshot: SandboxSnapshot
    files: Path
    place: Path
    megabytes: float


_TREE = Load("250 MB in 2,500 files", 2500, 100_000)


@contextmanager
def _archived(ground: Ground, alcove: Alcove, name: str) -> Iterator[Archive]:
    place = ground.workspace("transfer", name)
    with _loaded(alcove, _TREE) as snapshot:
        files = place / "files"
        files.mkdir()
        run(_TREE.command(), cwd=files).checked()
        yield Archive(snapshot, files, place, _TREE.files * _TREE.size / 1e6)
    remove(place)


@contextmanager
def _tar_out(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    with _archived(ground, alcove, "tar-out") as archive:
        yield lambda: _rate(archive, f"tar -C {archive.files} -cf - . | zstd -q -3 -f -o {archive.place}/tree.zst")


@contextmanager
def _tar_in(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    with _archived(ground, alcove, "tar-in") as archive:
        _rate(archive, f"tar -C {archive.files} -cf - . | zstd -q -3 -f -o {archive.place}/tree.zst")
        numbers = itertools.count()

        def sample() -> Mapping[str, float]:
            target = archive.place / f"into{next(numbers)}"
            target.mkdir()
            taken = _rate(archive, f"zstd -q -d -c {archive.place}/tree.zst | tar -C {target} -xf -")
            remove(target)
            return taken

        yield sample


def _rate(archive: Archive, script: str) -> Mapping[str, float]:
    os.sync()
    return {"throughput": archive.megabytes / run(["/bin/sh", "-ec", script]).checked().seconds}


@contextmanager
def _export(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    with _archived(ground, alcove, "export") as archive:

        def sample() -> Mapping[str, float]:
            os.sync()
            start = time.perf_counter_ns()
            alcove.wait(alcove.backend.export_snapshot(archive.snapshot.snapshot_id, archive.place / "snapshot.tar"))
            return {"throughput": archive.megabytes / ((time.perf_counter_ns() - start) / 1e9)}

        yield sample


@contextmanager
def _import(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    with _archived(ground, alcove, "import") as archive:
        file = archive.place / "snapshot.tar"
        alcove.wait(alcove.backend.export_snapshot(archive.snapshot.snapshot_id, file))

        def sample() -> Mapping[str, float]:
            os.sync()
            start = time.perf_counter_ns()
            came = alcove.wait(alcove.backend.import_snapshot(file))
            seconds = (time.perf_counter_ns() - start) / 1e9
            alcove.wait(alcove.backend.delete_snapshot(came.snapshot_id))
            return {"throughput": archive.megabytes / seconds}

        yield sample


def _contenders(ground: Ground, rows: Sequence[tuple[str, Callable[[Alcove], object]]]) -> Iterator[Contender]:
    if ground.alcove is not None:
        for name, opened in rows:
            yield Contender(name, partial(opened, ground.alcove))  # type: ignore[arg-type]


def _snapshot_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [(load.name, partial(_snapshot, load=load)) for load in (SMALL, LARGE)])


def _fork_contenders(ground: Ground) -> Iterator[Contender]:
    forks = [(f"fork of {load.name}", partial(_fork, load=load)) for load in (SMALL, LARGE)]
    return _contenders(ground, [(FRESH, _fresh), *forks])


def _resume_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [(FRESH, _fresh), ("resumed session", _resume)])


def _many_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [("alcove", partial(_many_forks, ground))])


def _depth_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [(f"{depth} layers", partial(_depth, depth=depth)) for depth in DEPTHS])


def _reopen_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [("alcove", lambda _: _reopen(ground))])


def _export_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [(TAR_OUT, partial(_tar_out, ground)), ("alcove", partial(_export, ground))])


def _import_contenders(ground: Ground) -> Iterator[Contender]:
    return _contenders(ground, [(TAR_IN, partial(_tar_in, ground)), ("alcove", partial(_import, ground))])


_TIME = (Metric("time", "ms"),)
_THROUGHPUT = (Metric("throughput", "MB/s", "higher"),)
TAR_OUT, TAR_IN = "tar | zstd", "zstd -d | tar"

STATE_CASES = (
    Case("snapshot", "a snapshot of an idle session", _TIME, SMALL.name, Rounds(11, 3, 1), _snapshot_contenders),
    Case(
        "fork", "a session from a snapshot, and its first command", _TIME, FRESH, Rounds(100, 20, 3), _fork_contenders
    ),
    Case("resume", "a suspended session's next command", _TIME, FRESH, Rounds(100, 20, 3), _resume_contenders),
    Case(
        "depth",
        "a name that is not there, by layers",
        (Metric("stat", "µs"),),
        None,
        Rounds(20, 5, 1),
        _depth_contenders,
    ),
    Case(
        "forks",
        f"{FORKS:,} forks of one snapshot alive at once",
        (Metric("answered", "sessions", "higher"), Metric("create", "s"), Metric("disk", "kB a fork")),
        None,
        Rounds(3, 1, 0),
        _many_contenders,
    ),
    Case("export", f"a snapshot of {_TREE.name} packed", _THROUGHPUT, TAR_OUT, Rounds(9, 3, 1), _export_contenders),
    Case("import", "the same unpacked", _THROUGHPUT, TAR_IN, Rounds(9, 3, 1), _import_contenders),
    Case(
        "reopen",
        f"a store with {KEPT:,} sessions and {KEPT:,} snapshots, opened after a power cut",
        (Metric("open", "s"),),
        None,
        Rounds(5, 3, 1),
        _reopen_contenders,
    ),
)
