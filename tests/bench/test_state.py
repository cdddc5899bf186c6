"""The cases of what lasts, over sessions that hold little: each contender does what it says, and leaves nothing."""

from pathlib import Path

import pytest

from bench.cases import state
from bench.cases.state import STATE_CASES, Load
from bench.contender import Case
from bench.ground import Ground
from bench.local import Alcove
from bench.measure import Options, run_case, store_of_our_own
from bench.peers.bare import Bare
from bench.pss import OwnEyes


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "SMALL", Load("1 MB", 1, 100))
    monkeypatch.setattr(state, "LARGE", Load("1 GB in 10,000 files", 3, 100))
    monkeypatch.setattr(state, "_TREE", Load("a little", 3, 10_000))
    monkeypatch.setattr(state, "FORKS", 3)
    monkeypatch.setattr(state, "KEPT", 20)
    monkeypatch.setattr(state, "DEPTHS", (1, 2))


@pytest.mark.user
@pytest.mark.parametrize("case", STATE_CASES, ids=lambda case: case.id)
def test_each_case_measures_all_of_its_contenders(case: Case, tmp_path: Path) -> None:
    with store_of_our_own(tmp_path):
        alcove = Alcove(tmp_path / "store")
        ground = Ground(scratch=tmp_path, bare=Bare(), peers=[], alcove=alcove, pss=OwnEyes(), quick=True)
        try:
            names = [contender.name for contender in case.contenders(ground)]
            row = run_case(case, ground, Options(quick=True, rounds=1, parent=tmp_path), lambda _done, _rounds: None)
            assert row.failures == []
            for metric in case.metrics:
                for name in names:
                    found = row.find(name, metric.name)
                    assert found is not None
                    assert found.samples
            assert alcove.backend.sessions() == []
            assert alcove.backend.snapshots() == []
        finally:
            alcove.close()
    assert list((tmp_path / "store" / "layers").iterdir()) == []
