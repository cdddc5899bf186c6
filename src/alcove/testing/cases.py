"""What every class of cases is: async tests over a `backend` fixture, none of which a subclass can lose by accident."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import pytest

from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import ExecRequest, ExecResult, SandboxSession, SandboxSpec

_Case = TypeVar("_Case", bound=Callable[..., Any])


def replaces_case(reason: str) -> Callable[[_Case], _Case]:
    """Mark a case as standing, for `reason`, in the place of the inherited one of the same name."""

    def mark(case: _Case) -> _Case:
        case.__dict__["replaces_case"] = reason
        return case

    return mark


class Cases:
    """A class of cases; inherit from it and provide a `backend` fixture, sync or async.

    Raises:
        TypeError: at class creation, when a case hides another of the same name without `@replaces_case`.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            if name.startswith("test_"):
                _refuse_shadow(cls, name)

    @asynccontextmanager
    async def live(self, backend: SandboxBackend, spec: SandboxSpec | None = None) -> AsyncIterator[SandboxSession]:
        """Yield a session that ends with the block."""
        session = await backend.provision(spec or SandboxSpec())
        try:
            yield session
        finally:
            await backend.terminate(session.id)

    async def run(self, backend: SandboxBackend, session: SandboxSession, command: str, *args: str) -> ExecResult:
        """Run a command that has no need of more than its arguments."""
        return await backend.exec(session.id, ExecRequest(command, args, timeout=30))

    async def sh(self, backend: SandboxBackend, session: SandboxSession, script: str, *args: str) -> ExecResult:
        """Run a POSIX shell script with `args` as its `$1`, `$2`, and so on."""
        return await self.run(backend, session, "sh", "-c", script, "sh", *args)


def _refuse_shadow(cls: type, name: str) -> None:
    owners = [base for base in cls.__mro__ if name in vars(base)]
    for owner, hidden in pairwise(owners):
        if not getattr(vars(owner)[name], "replaces_case", None):
            raise TypeError(
                f"{owner.__name__}.{name} hides {hidden.__name__}.{name}, which would no longer run: "
                "rename it, or decorate it with @replaces_case(reason)"
            )
