"""The cases that every backend passes, in one class; each part stands alone in its own module."""

from alcove.testing.exec_cases import ExecCases
from alcove.testing.lifecycle_cases import LifecycleCases
from alcove.testing.mount_cases import MountCases
from alcove.testing.state_cases import StateCases
from alcove.testing.suspend_cases import SuspendCases


class ContractCases(LifecycleCases, MountCases, ExecCases, StateCases, SuspendCases):
    """What the contract promises of any backend.

    The guest needs echo, cat, tee, rm, mkdir, pwd, env, sleep, true, false.

    ::

        class TestMyBackend(ContractCases, RealExecCases):
            @pytest.fixture
            def backend(self) -> MyBackend:
                return MyBackend()
    """
