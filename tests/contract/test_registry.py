"""Backends by name: ours, those of other packages, and what is said of one that cannot be had."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alcove import InvalidRequest, registry
from alcove.testing import FakeBackend

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with one module and one backend."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(distribution: str, name: str, value: str, source: str = "") -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")
        module = value.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def test_ours_are_there() -> None:
    assert {"fake", "local"} <= set(registry.names())
    assert registry.load("fake") is FakeBackend


def test_naming_one_of_ours_reads_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan() -> list[object]:
        raise AssertionError

    monkeypatch.setattr(registry, "_entry_points", scan)
    assert registry.load("fake") is FakeBackend


def test_a_backend_of_another_package(install: Install) -> None:
    install("acme-sandbox", "acme", "acme_backend:Backend", "class Backend:\n    name = 'acme'\n")
    assert "acme" in registry.names()
    assert "acme_backend" not in sys.modules
    assert registry.load("acme").__name__ == "Backend"


def test_an_unknown_name_is_told_what_exists(install: Install) -> None:
    install("acme-sandbox", "acme", "acme_backend:Backend")
    with pytest.raises(InvalidRequest) as caught:
        registry.load("lokal")
    assert caught.value.detail == f"no backend is called `lokal`; there are: {', '.join(registry.names())}"
    assert "acme" in caught.value.detail


def test_a_missing_requirement_is_told_how_to_install(install: Install) -> None:
    install("acme-sandbox", "acme", "acme_backend:Backend [cloud,fast]", "import acme_wire_format\n")
    with pytest.raises(InvalidRequest) as caught:
        registry.load("acme")
    assert caught.value.detail == (
        "backend `acme` needs the module `acme_wire_format`, which is not installed: "
        "pip install 'acme-sandbox[cloud,fast]'"
    )


def test_a_missing_extra_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Entry("alcove_no_such_module", "Backend", "alcove[client]")
    monkeypatch.setitem(registry.BACKENDS, "remote", entry)
    with pytest.raises(InvalidRequest, match=r"pip install 'alcove\[client\]'"):
        registry.load("remote")


def test_a_name_of_ours_is_not_taken_over(install: Install) -> None:
    install("acme-sandbox", "fake", "acme_backend:Backend", "class Backend: ...\n")
    assert registry.load("fake") is FakeBackend


def test_a_name_claimed_twice_is_refused(install: Install) -> None:
    install("acme-sandbox", "cloud", "acme_backend:Backend")
    install("zeta-sandbox", "cloud", "zeta_backend:Backend")
    with pytest.raises(InvalidRequest, match=r"claimed by several packages \(acme-sandbox, zeta-sandbox\)"):
        registry.load("cloud")
