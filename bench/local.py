"""Alcove through its public async API, every layer on, nothing tuned but what a case says."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.contender import Finished, Run, WrongResultError
from bench.processes import native
from bench.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from alcove import ExecResult, LocalSandbox, LocalSandboxConfig, SandboxSession, SandboxSessionId, SandboxSpec

T = TypeVar("T")

_MAKERS = 8


class Alcove(Runtime):
    """One event loop and one backend for the whole run; times are taken inside the loop, around the ``await``."""

    name = "alcove"
    how = "LocalSandbox, no network: provision, exec, terminate; live: exec in a session that is there"
    joins = True

    def __init__(self, store: Path) -> None:
        self._store = store
        self._runner = asyncio.Runner()
        self._opened: LocalSandbox | None = None
        self.isolation: str | None = None

    def version(self) -> str | None:
        try:
            return importlib.metadata.version("alcove") if has_backend() else None
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def backend(self) -> LocalSandbox:
        if self._opened is None:
            from alcove import LocalSandbox

            self._opened = LocalSandbox(self.config())
        return self._opened

    def config(self) -> LocalSandboxConfig:
        from alcove import LocalSandboxConfig

        return LocalSandboxConfig(root_dir=str(self._store))

    def spec(self) -> SandboxSpec:
        """What each session is made from: no network, and nothing else said."""
        from alcove import Limited, SandboxSpec

        return SandboxSpec(network_policy=Limited(allowed_hosts=[]))

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def once(self, workspace: Path | None = None) -> Run:  # noqa: ARG002  each session has a workspace of its own
        return lambda command: self.wait(self.whole(command))

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:  # noqa: ARG002  as above
        with self.sessions(1) as (session,):
            yield lambda command: self.wait(self.exec(session, command))

    @contextmanager
    def idle(self, count: int) -> Iterator[frozenset[int]]:
        """Sessions that have run one command each: what is started only then belongs to the price."""
        before = native()
        with self.sessions(count) as sessions:
            self.wait(self.all_answer(sessions))
            yield self.processes_since(before, count)

    def processes_since(self, before: Mapping[int, str], sessions: int) -> frozenset[int]:
        """The native processes of the sessions made since ``before``, however many other people's there are."""
        new = {pid: title for pid, title in native().items() if pid not in before}
        return own_processes(new, directory_names(self._store), sessions)

    @contextmanager
    def sessions(self, count: int) -> Iterator[list[SandboxSessionId]]:
        made: list[SandboxSessionId] = []
        try:
            self.wait(self.make(count, made))
            yield made
        finally:
            self.wait(self.end(made))

    async def make(self, count: int, made: list[SandboxSessionId]) -> None:
        """Add ``count`` sessions to ``made``, a few at a time; what was made is there even after a failure."""

        async def maker(share: int) -> None:
            for _ in range(share):
                session = await self.provision()
                made.append(session.id)

        await together([maker(share) for share in shares(count, _MAKERS)])

    async def end(self, sessions: Sequence[SandboxSessionId]) -> None:
        async def ender(some: Sequence[SandboxSessionId]) -> None:
            for session in some:
                await self.backend.terminate(session)

        await together([ender(sessions[first::_MAKERS]) for first in range(_MAKERS)])

    async def all_answer(self, sessions: Sequence[SandboxSessionId]) -> int:
        """Each session says its own number; returns how many said the right one."""

        async def asker(first: int) -> int:
            right = 0
            for number in range(first, len(sessions), _MAKERS):
                done = await self.exec(sessions[number], ["/bin/echo", str(number)])
                right += done.code == 0 and str(done.stdout) == f"{number}\n"
            return right

        return sum(await together([asker(first) for first in range(_MAKERS)]))

    async def provision(self) -> SandboxSession:
        session = await self.backend.provision(self.spec())
        self.isolation = session.metadata.get("isolation")
        return session

    async def exec(
        self, session: SandboxSessionId, command: Sequence[str], output_limit: int | None = None
    ) -> Finished:
        from alcove import ExecRequest

        request = ExecRequest(command=command[0], args=list(command[1:]), output_limit=output_limit)
        start = time.perf_counter_ns()
        result = await self.backend.exec(session, request)
        return finished(start, result)

    async def whole(self, command: Sequence[str]) -> Finished:
        """A session's whole life around one command; its time ends when ``terminate`` has returned."""
        start = time.perf_counter_ns()
        session = await self.provision()
        try:
            done = await self.exec(session.id, command)
        finally:
            await self.backend.terminate(session.id)
        return Finished((time.perf_counter_ns() - start) / 1e9, done.code, done.stdout, done.stderr)

    def close(self) -> None:
        """Let go of the backend and the loop; sessions were ended by whoever made them."""
        aclose = getattr(self._opened, "aclose", None)
        if aclose is not None:
            self.wait(aclose())
        self._runner.close()


def has_backend() -> bool:
    try:
        return hasattr(importlib.import_module("alcove"), "LocalSandbox")
    except ImportError:
        return False


def finished(start: int, result: ExecResult) -> Finished:
    seconds = (time.perf_counter_ns() - start) / 1e9
    if result.timed_out:
        raise WrongResultError("the command timed out")
    return Finished(seconds, result.exit_code, result.stdout, result.stderr, result.stdout_omitted)


def directory_names(store: Path, depth: int = 3) -> frozenset[str]:
    """Names of the store's directories; a session's key, which its processes carry in their titles, is among them."""
    if depth == 0 or not store.is_dir():
        return frozenset()
    below = [path for path in store.iterdir() if path.is_dir() and not path.is_symlink()]
    return frozenset(path.name for path in below).union(*(directory_names(path, depth - 1) for path in below))


def own_processes(new: Mapping[int, str], keys: frozenset[str], sessions: int) -> frozenset[int]:
    """Those of the new native processes that are our sessions': their titles end in a key of our store.

    Raises:
        WrongResultError: there is not one warden and one init for each session, so the figure would be wrong.
    """
    ours = {pid: title for pid, title in new.items() if keys.intersection(title.split()[1:])} if keys else {}
    ours = ours or dict(new)
    for kind in ("alcove-warden", "alcove-init"):
        found = sum(title.startswith(kind) for title in ours.values())
        if found != sessions:
            raise WrongResultError(f"{found} new {kind} processes for {sessions} sessions: others make some too")
    return frozenset(ours)


def shares(count: int, makers: int) -> list[int]:
    """``count`` split over the makers as evenly as it goes."""
    return [count // makers + (number < count % makers) for number in range(makers)]


async def together(tasks: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once; a failure is raised only after every task has ended, so that nothing runs on."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
