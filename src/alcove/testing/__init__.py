"""For those who write a backend, or test code that uses one.

* `FakeBackend` runs nothing and isolates nothing; it answers from memory, as scripted.
* `ContractCases`, `RealExecCases`, `HostMountCases`: the suite that every backend passes; inherit and give a `backend`
  fixture. A subclass that silently shadows a case is an error when the class is made.
* `no_leaks`, and the pytest fixture `leaks` of `alcove.testing.fixtures`: what was held before is what is held after.
"""

from typing import TYPE_CHECKING

from alcove.testing.fake import FakeBackend
from alcove.testing.leaks import no_leaks

if TYPE_CHECKING:
    from alcove.testing.cases import Cases, replaces_case
    from alcove.testing.contract import ContractCases
    from alcove.testing.host_mounts import HostMountCases
    from alcove.testing.real_exec import RealExecCases

__all__ = [
    "Cases",
    "ContractCases",
    "FakeBackend",
    "HostMountCases",
    "RealExecCases",
    "no_leaks",
    "replaces_case",
]

# These import pytest, which code that only wants the fake need not have.
_LAZY = {
    "Cases": "alcove.testing.cases",
    "ContractCases": "alcove.testing.contract",
    "HostMountCases": "alcove.testing.host_mounts",
    "RealExecCases": "alcove.testing.real_exec",
    "replaces_case": "alcove.testing.cases",
}
# Their asserts explain themselves only if pytest rewrites them, which it must be told before they are imported.
_WITH_ASSERTS = (
    "alcove.testing.cases",
    "alcove.testing.exec_cases",
    "alcove.testing.host_mounts",
    "alcove.testing.lifecycle_cases",
    "alcove.testing.mount_cases",
    "alcove.testing.real_exec",
    "alcove.testing.state_cases",
    "alcove.testing.suspend_cases",
)


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module `alcove.testing` has no attribute `{name}`")
    import sys
    from importlib import import_module

    import pytest

    pytest.register_assert_rewrite(*(module for module in _WITH_ASSERTS if module not in sys.modules))
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
