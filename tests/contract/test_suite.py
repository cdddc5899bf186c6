"""The suite itself: no case is lost in silence, and its real cases hold for real processes."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import IO

import pytest

from alcove import ExecRequest, ExecResult, SandboxBackend, SandboxSession, SandboxSpec
from alcove.contract import ExecError, rules
from alcove.testing import Cases, ContractCases, FakeBackend, RealExecCases, replaces_case


def test_a_case_cannot_be_hidden_in_silence() -> None:
    with pytest.raises(TypeError, match=r"Loose\.test_stdin_is_read hides ExecCases\.test_stdin_is_read"):

        class Loose(ContractCases):
            async def test_stdin_is_read(self, backend: SandboxBackend) -> None: ...


def test_nor_by_a_mixin_or_an_attribute() -> None:
    class Mixin:
        async def test_stdin_is_read(self, backend: SandboxBackend) -> None: ...

    with pytest.raises(TypeError, match="hides"):
        type("Mixed", (Mixin, ContractCases), {})
    with pytest.raises(TypeError, match="hides"):
        type("Dropped", (ContractCases,), {"test_stdin_is_read": None})


def test_a_case_is_replaced_for_a_reason() -> None:
    class Replaced(ContractCases):
        @replaces_case("this backend has no stdin")
        async def test_stdin_is_read(self, backend: SandboxBackend) -> None: ...

    class Further(Replaced):
        async def test_of_its_own(self, backend: SandboxBackend) -> None: ...

    assert "test_stdin_is_read" in dir(Further)


def test_every_case_waits() -> None:
    for kind in (ContractCases, RealExecCases):
        assert issubclass(kind, Cases)
        cases = [getattr(kind, name) for name in dir(kind) if name.startswith("test_")]
        assert len(cases) > 10
        assert all(map(asyncio.iscoroutinefunction, cases))


class BareBackend(FakeBackend):
    """Real processes in a directory, isolated by nothing: only to try the suite's own shell scripts."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    async def provision(self, spec: SandboxSpec) -> SandboxSession:
        session = await super().provision(spec)
        (self.root / session.id).mkdir()
        return session

    async def exec(self, session_id: str, request: ExecRequest) -> ExecResult:
        rules.validate_exec(request)
        start = self.root / session_id
        cwd = start / (request.cwd or "")
        if not cwd.is_dir():
            raise ExecError(f"cwd `{request.cwd}` is no directory")
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin.write(rules.stdin_bytes(request) or b"")
            stdin.seek(0)
            argv = [request.command, *request.args]
            if not shutil.which(request.command):  # a builtin of the shell's
                argv = ["sh", "-c", '"$0" "$@"', *argv]
            process = await asyncio.create_subprocess_exec(
                *argv, cwd=cwd, stdin=stdin, stdout=out, stderr=err, start_new_session=True
            )
            timed_out = await _timed_out(process, request)
            number = -(process.returncode or 0)
            if timed_out or number <= 0:
                return ExecResult(_content(out), _content(err), -1 if timed_out else -number, timed_out)
            return ExecResult(_content(out), _content(err), 128 + number, signal=number)


async def _timed_out(process: asyncio.subprocess.Process, request: ExecRequest) -> bool:
    try:
        await asyncio.wait_for(process.wait(), request.timeout.seconds if request.timeout else None)
    except TimeoutError:
        return True
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return False


def _content(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")


class TestRealCasesOverBareProcesses(RealExecCases):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> SandboxBackend:
        return BareBackend(tmp_path)
