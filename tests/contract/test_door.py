"""The names at the door, and what it costs to open it."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import alcove

DOOR = {
    "MEMORY_MOUNT",
    "OUTPUTS_MOUNT",
    "Applied",
    "AsyncSandbox",
    "Change",
    "Conflict",
    "Duration",
    "ExecError",
    "ExecRequest",
    "ExecResult",
    "FilesystemAccess",
    "FilesystemMount",
    "Forbidden",
    "InvalidRequest",
    "JsonError",
    "LifecycleError",
    "Limited",
    "LocalSandbox",
    "LocalSandboxConfig",
    "NetworkPolicy",
    "NetworkPolicyError",
    "RateLimited",
    "Refusal",
    "ResolvedMount",
    "ResourceLimits",
    "Sandbox",
    "SandboxBackend",
    "SandboxCapabilities",
    "SandboxError",
    "SandboxIoError",
    "SandboxSession",
    "SandboxSessionId",
    "SandboxSnapshot",
    "SandboxSpec",
    "SandboxState",
    "SessionNotFound",
    "TaskError",
    "Unauthorized",
    "Unavailable",
    "Unrestricted",
    "Unsupported",
    "from_json",
    "to_json",
}
LATE = {"Applied", "AsyncSandbox", "Change", "Refusal", "LocalSandbox", "LocalSandboxConfig", "Sandbox"}


def modules_after(statement: str) -> set[str]:
    show = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_the_door_is_pinned() -> None:
    assert set(alcove.__all__) == DOOR
    assert len(alcove.__all__) == len(DOOR)
    assert set(dir(alcove)) >= {*DOOR, "__version__"}


@pytest.mark.parametrize("name", sorted(DOOR))
def test_each_name_is_there(name: str) -> None:
    value = getattr(alcove, name)
    if name not in {"MEMORY_MOUNT", "OUTPUTS_MOUNT", "NetworkPolicy"}:
        assert value.__name__ == name


def test_a_policy_is_either_class() -> None:
    assert isinstance(alcove.Limited(), alcove.NetworkPolicy)
    assert isinstance(alcove.Unrestricted(), alcove.NetworkPolicy)


def test_the_version_is_the_packages() -> None:
    assert alcove.__version__ == version("alcove")


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="`alcove` has no attribute `Sandboxes`"):
        getattr(alcove, "Sandboxes")  # noqa: B009


def test_opening_the_door_loads_the_contract_and_no_more() -> None:
    loaded = modules_after("import alcove")
    assert {name for name in loaded if name.startswith("alcove.")} == {
        "alcove.contract",
        "alcove.contract.codec",
        "alcove.contract.errors",
        "alcove.contract.fields",
        "alcove.contract.protocol",
        "alcove.contract.types",
    }


def test_the_contract_costs_little_more_than_msgspec() -> None:
    beyond = modules_after("import alcove.contract") - modules_after("import msgspec")
    assert {name.partition(".")[0] for name in beyond} == {"alcove"}
    assert not {"asyncio", "json", "dataclasses", "importlib.metadata"} & modules_after("import alcove")


def test_a_late_name_is_not_loaded_before_it_is_asked_for() -> None:
    for name in LATE:
        assert name not in alcove._LAZY or alcove._LAZY[name].startswith("alcove.")
    assert not {"alcove.local", "alcove.sandbox"} & modules_after("import alcove")
