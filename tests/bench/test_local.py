import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from alcove import ExecRequest, ExecResult, Limited, SandboxState
from alcove.testing import FakeBackend
from bench.cases import CASES, density, output
from bench.contender import WrongResultError
from bench.ground import Ground
from bench.local import Alcove, directory_names, own_processes, shares, together
from bench.measure import Options, run_case
from bench.peers.bare import Bare
from bench.pss import OwnEyes

if TYPE_CHECKING:
    from alcove import LocalSandbox

TITLES = {
    1: "alcove-warden k1",
    2: "alcove-spawner k1",
    3: "alcove-init k1",
    4: "alcove-warden other",
    5: "alcove-init other",
}


def test_only_the_processes_of_our_store_are_counted() -> None:
    assert own_processes(TITLES, frozenset({"k1", "workspace"}), 1) == {1, 2, 3}


def test_without_keys_in_the_titles_the_count_must_still_be_right() -> None:
    bare = {pid: title.split()[0] for pid, title in TITLES.items()}
    assert own_processes(bare, frozenset({"k1"}), 2) == {1, 2, 3, 4, 5}
    with pytest.raises(WrongResultError, match="2 new alcove-warden processes for 1 sessions"):
        own_processes(bare, frozenset({"k1"}), 1)


def test_a_session_without_its_init_is_not_measured() -> None:
    with pytest.raises(WrongResultError, match="0 new alcove-init"):
        own_processes({1: "alcove-warden k1"}, frozenset({"k1"}), 1)


def test_keys_are_directory_names_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "sessions" / "k1" / "workspace" / "too-deep").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert directory_names(tmp_path) == {"sessions", "k1", "workspace"}
    assert directory_names(tmp_path / "missing") == frozenset()


def test_shares_add_up() -> None:
    assert shares(10, 4) == [3, 3, 2, 2]
    assert sum(shares(1000, 8)) == 1000
    assert shares(1, 3) == [1, 0, 0]


async def test_all_have_ended_before_a_failure_is_raised() -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise WrongResultError("wrong")

    async def slow() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append("slow")

    with pytest.raises(WrongResultError, match="wrong"):
        await together([fails(), slow()])
    assert ended == ["slow"]
    assert await together([asyncio.sleep(0, 1), asyncio.sleep(0, 2)]) == [1, 2]


def answer(request: ExecRequest) -> ExecResult:
    match request.command, request.args:
        case "/bin/true", []:
            return ExecResult()
        case "/bin/echo", [said]:
            return ExecResult(stdout=f"{said}\n")
        case "head", ["-c", size, "/dev/zero"]:
            kept = min(int(size), request.output_limit or 8 * 1024 * 1024)
            return ExecResult(stdout="\0" * kept, stdout_omitted=int(size) - kept)
        case "slow", _:
            return ExecResult(exit_code=-1, timed_out=True)
    return ExecResult(exit_code=1, stderr=f"{request.command}: no")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(dict.fromkeys(("/bin/true", "/bin/false", "/bin/echo", "head", "slow", "*"), answer))


@pytest.fixture
def alcove(backend: FakeBackend, tmp_path: Path) -> Iterator[Alcove]:
    made = Alcove(tmp_path / "store")
    made._opened = cast("LocalSandbox", backend)
    yield made
    made.close()


def standing(backend: FakeBackend) -> int:
    return sum(session.state is not SandboxState.TERMINATED for session in backend._sessions.values())


def silent(_done: int, _rounds: int) -> None:
    return


def test_alcove_is_probed_like_the_others(alcove: Alcove, backend: FakeBackend) -> None:
    alcove.probe()
    assert standing(backend) == 0
    assert alcove.isolation == "none"
    assert alcove.version() is not None


def test_every_session_is_closed_to_the_network(alcove: Alcove, backend: FakeBackend) -> None:
    with alcove.sessions(3) as made:
        assert standing(backend) == 3
        assert all(backend._live(session).policy == Limited(allowed_hosts=[]) for session in made)
    assert standing(backend) == 0


def test_a_timeout_is_never_measured(alcove: Alcove, backend: FakeBackend) -> None:
    with pytest.raises(WrongResultError, match="timed out"):
        alcove.once()(["slow"])
    assert standing(backend) == 0


def test_sessions_that_say_another_number_are_not_counted(alcove: Alcove, backend: FakeBackend) -> None:
    with alcove.sessions(10) as made:
        assert alcove.wait(alcove.all_answer(made)) == 10
        backend.handlers["/bin/echo"] = lambda _request: ExecResult(stdout="3\n")
        assert alcove.wait(alcove.all_answer(made)) == 1


@pytest.mark.parametrize("case", ["live", "new", "phases", "live-rate", "new-rate"])
def test_a_case_runs_through_the_public_api(case: str, alcove: Alcove, backend: FakeBackend, tmp_path: Path) -> None:
    chosen = next(known for known in CASES if known.id == case)
    ground = Ground(scratch=tmp_path, bare=Bare(), peers=[], alcove=alcove, pss=OwnEyes(), quick=True)
    row = run_case(chosen, ground, Options(quick=True, rounds=1, parent=tmp_path), silent)
    assert not row.failures
    assert {found.metric for found in row.series if found.contender == "alcove"} == {m.name for m in row.metrics}
    assert standing(backend) == 0


def test_density_counts_answers_and_ends_every_session(
    alcove: Alcove, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density, "SESSIONS", 20)
    ground = Ground(scratch=tmp_path, bare=Bare(), peers=[], alcove=alcove, pss=OwnEyes(), quick=True)
    row = run_case(density.DENSITY, ground, Options(quick=True, rounds=2, parent=tmp_path), silent)
    answered = row.find("alcove", "answered")
    assert answered is not None
    assert answered.samples == [20.0, 20.0]
    assert standing(backend) == 0


def test_output_is_captured_whole_or_up_to_the_default_cap(alcove: Alcove, backend: FakeBackend) -> None:
    size = 10 * 1024 * 1024
    command = ["head", "-c", str(size), "/dev/zero"]
    for limit in (size, None):
        with output.alcove_output(alcove, limit, command, size) as sample:
            assert sample()["throughput"] > 0
    assert [request.output_limit for _, request in backend.execs] == [size, None]
