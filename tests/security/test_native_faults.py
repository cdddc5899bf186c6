"""SR01 on the native side: the launcher dies, or fails, at each named point of provisioning."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from alcove.contract import ExecRequest, LifecycleError
from alcove.local.cell import plan
from alcove.local.cell.operations import Kind, operation
from tests.local import outside
from tests.security.supervisors import CLOSED, counted, groups_of, new_backend, processes_of

pytestmark = [pytest.mark.security]

POINTS = ("mapped", "spawner-born", "mounted", "pivoted", "spawner-ready")


@pytest.fixture(scope="module")
def faulty(native_variant: Callable[..., Path]) -> Path:
    return native_variant("faults", "-Dfaults=true")


def keys(store: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (store / "sessions").iterdir()}


@counted
@pytest.mark.parametrize("action", ["kill9", "error"])
@pytest.mark.parametrize("point", POINTS)
async def test_sr01_a_launcher_that_dies_leaves_nothing(
    store: Path, faulty: Path, monkeypatch: pytest.MonkeyPatch, point: str, action: str, times: int
) -> None:
    for _ in range(times):
        await dies(store, faulty, monkeypatch, point, action)


async def dies(store: Path, faulty: Path, monkeypatch: pytest.MonkeyPatch, point: str, action: str) -> None:
    build, made = plan.build, set[str]()

    def with_fault(host: object, spec: object, layout: object, places: object, *rest: object) -> plan.LaunchPlan:
        made.add(Path(places.directory).name)  # type: ignore[attr-defined]
        whole = build(host, spec, layout, places, *rest)  # type: ignore[arg-type]
        return replace(whole, encoded=whole.encoded + operation(Kind.FAULT, point, action))

    backend = new_backend(store, launcher=faulty)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "build", with_fault)
        with pytest.raises(LifecycleError, match="ended|Broken pipe" if action == "kill9" else f"fault.*{point}"):
            await backend.provision(CLOSED)
    (key,) = made
    await outside.until(lambda: not processes_of(key), f"{processes_of(key)} of {key} live on")
    assert groups_of(key) == []
    assert keys(store) == set()
    assert backend.sessions() == []
    session = await backend.provision(CLOSED)  # the control: without a fault the same launcher makes one
    assert (await backend.exec(session.id, ExecRequest("true"))).success
    await backend.terminate(session.id)
    await backend.aclose()
