"""A live session with what tests do to it, in one hand."""

import secrets
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from alcove.contract import ExecRequest, ExecResult, Limited, SandboxSession, SandboxSnapshot, SandboxSpec
from alcove.local.backend import LocalSandbox
from tests.local import outside

#: For every command that is to end by itself: a test fails by it before the whole run hangs.
ENDS_WITHIN = 40.0


class Cell:
    """A session and its backend."""

    def __init__(self, backend: LocalSandbox, session: SandboxSession) -> None:
        self.backend = backend
        self.session = session

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def directory(self) -> Path:
        """Where the session's files lie on the host."""
        outputs = self.session.mounts[1].host_path
        assert outputs is not None
        return Path(outputs).parent

    def native(self, role: str) -> int:
        """Return the one process of the session that has this role's title."""
        found = outside.called(f"alcove-{role}", self.directory.name)
        assert len(found) == 1, (role, found)
        return found[0]

    async def exec(self, command: str, args: Sequence[str] = (), **fields: Any) -> ExecResult:
        fields.setdefault("timeout", ENDS_WITHIN)
        return await self.backend.exec(self.id, ExecRequest(command, args, **fields))

    async def sh(self, script: str, *args: str, **fields: Any) -> ExecResult:
        return await self.exec("sh", ["-c", script, "sh", *args], **fields)

    async def python(self, program: str, *args: str, **fields: Any) -> ExecResult:
        return await self.exec("/usr/bin/python3", ["-c", program, *args], **fields)

    async def out(self, script: str, *args: str, **fields: Any) -> str:
        """Return what a script wrote, which must have succeeded."""
        result = await self.sh(script, *args, **fields)
        assert result.success, result
        return result.stdout


@asynccontextmanager
async def live(backend: LocalSandbox, spec: SandboxSpec | None = None) -> AsyncIterator[Cell]:
    """Yield a session, without network unless the spec says so, that ends with the block."""
    session = await backend.provision(spec or SandboxSpec(network_policy=Limited()))
    try:
        yield Cell(backend, session)
    finally:
        await backend.terminate(session.id)


def begun(backend: LocalSandbox, snapshot: SandboxSnapshot) -> AbstractAsyncContextManager[Cell]:
    """Yield a session that begins with a snapshot, and ends with the block."""
    return live(backend, SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}", network_policy=Limited()))


@asynccontextmanager
async def forked(cell: Cell) -> AsyncIterator[Cell]:
    """Yield a fork of a session, that ends with the block."""
    session = await cell.backend.fork(cell.id)
    try:
        yield Cell(cell.backend, session)
    finally:
        await cell.backend.terminate(session.id)


def mark() -> str:
    """Return a number of seconds to sleep that no other process on this machine sleeps."""
    return f"7000{secrets.randbelow(10**9):09}"


def raw_output(result: ExecResult) -> bytes:
    return b64decode(result.stdout_base64 or "", validate=True)
