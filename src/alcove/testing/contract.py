"""The cases that every backend passes, in one class; each part stands alone in its own module."""

from alcove.testing.exec_cases import ExecCases
from alcove.testing.lifecycle_cases import LifecycleCases
from alcove.testing.mount_cases import MountCases
from alcove.testing.suspend_cases import SuspendCases


class ContractCases(LifecycleCases, MountCases, ExecCases, SuspendCases):
    """What the contract promises of any backend; the guest needs echo, cat, tee, mkdir, pwd, env, sleep, true, false.

    ::

        class TestMyBackend(ContractCases, RealExecCases):
            @pytest.fixture
            def backend(self) -> MyBackend:
                return MyBackend()
    """
