# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases of running a command, with programs that every guest has."""

import asyncio
import time
from base64 import b64decode, b64encode

import pytest

from alcove.contract.codec import from_json, to_json
from alcove.contract.errors import ExecError, InvalidRequest
from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import OUTPUTS_MOUNT, ExecRequest, ExecResult, ResourceLimits, SandboxSpec
from alcove.testing.cases import Cases

MALFORMED = [
    (ExecRequest(""), "exec command cannot be empty"),
    (ExecRequest(" \t"), "exec command cannot be empty"),
    (ExecRequest("true", env={"A-B": "1"}), "invalid environment key `A-B`"),
    (ExecRequest("true", env={"": "1"}), "invalid environment key ``"),
    (ExecRequest("true", env={"A\n": "1"}), "invalid environment key `A\n`"),
    (ExecRequest("tr\0ue"), "NUL"),
    (ExecRequest("true", ["a\0"]), "NUL"),
    (ExecRequest("true", env={"A": "\0"}), "NUL"),
    (ExecRequest("true", cwd="/\0"), "NUL"),
    (ExecRequest("true", ["x" * 131_072]), "MAX_ARG_STRLEN"),
    (ExecRequest("true", env={"A": "x" * 131_070}), "MAX_ARG_STRLEN"),
    (ExecRequest("true", timeout=0), "timeout"),
    (ExecRequest("true", stdin="a", stdin_base64="YQ=="), "stdin"),
    (ExecRequest("true", stdin_base64="no base64!"), "base64"),
]


class ExecCases(Cases):
    """One request, one result; and which requests are none."""

    async def test_a_command_writes_and_succeeds(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert await self.run(backend, session, "echo", "hello") == ExecResult(stdout="hello\n")

    async def test_a_plain_string_names_a_session(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert (await backend.exec(str(session.id), ExecRequest("true"))).success

    async def test_failure_is_a_result(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.run(backend, session, "false")
            assert (result.exit_code, result.timed_out, result.success) == (1, False, False)

    async def test_standard_error_is_apart(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.run(backend, session, "cat", "/no/such/file")
            assert result.stdout == ""
            assert "/no/such/file" in result.stderr
            assert result.exit_code != 0

    async def test_a_result_survives_the_wire(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.run(backend, session, "cat", "/no/such/file")
            assert from_json(to_json(result), ExecResult, strict=True) == result

    async def test_arguments_arrive_as_they_are(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.run(backend, session, "echo", "a  b", "$HOME", "*", ";", "'\"", "é", "", "`true`")
            assert result.stdout == "a  b $HOME * ; '\" é  `true`\n"

    async def test_not_found_is_127(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert (await self.run(backend, session, "alcove-no-such-program")).exit_code == 127
            assert (await self.run(backend, session, "/no/such/program")).exit_code == 127

    async def test_not_executable_is_126(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            path = f"{OUTPUTS_MOUNT}/plain"
            await backend.exec(session.id, ExecRequest("tee", [path], stdin="no program"))
            assert (await self.run(backend, session, path)).exit_code == 126

    async def test_no_stdin_is_end_of_file(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert await self.run(backend, session, "cat") == ExecResult()

    async def test_stdin_is_read(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await backend.exec(session.id, ExecRequest("cat", stdin="eins\nzwei é\n"))
            assert result.stdout == "eins\nzwei é\n"

    async def test_bytes_outside_utf8(self, backend: SandboxBackend) -> None:
        data = bytes(range(256)) + b"\xf0\x9f\x98"
        async with self.live(backend) as session:
            request = ExecRequest("cat", stdin_base64=b64encode(data).decode(), raw=True)
            result = await backend.exec(session.id, request)
            assert result.stdout == data.decode("utf-8", "replace")
            assert b64decode(result.stdout_base64 or "", validate=True) == data
            assert result.stderr_base64 == ""

    async def test_output_beyond_the_limit_is_cut_in_the_middle(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            request = ExecRequest("cat", stdin="a" * 500 + "z" * 500, output_limit=10)
            result = await backend.exec(session.id, request)
            assert (result.stdout, result.stdout_omitted) == ("aaaaazzzzz", 990)

    async def test_environment_of_the_request(self, backend: SandboxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALCOVE_HOST_CANARY", "leaked")
        async with self.live(backend) as session:
            result = await backend.exec(session.id, ExecRequest("env", env={"WORD": "a=b c", "HOME": "/tmp"}))
            lines = result.stdout.splitlines()
            assert "WORD=a=b c" in lines
            assert "HOME=/tmp" in lines
            assert any(line.startswith("PATH=/") for line in lines)
            assert "leaked" not in result.stdout

    async def test_cwd_is_relative_to_the_start(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            start = (await self.run(backend, session, "pwd")).stdout.strip()
            assert (await self.run(backend, session, "mkdir", "sub")).success
            below = await backend.exec(session.id, ExecRequest("pwd", cwd="sub"))
            assert below.stdout.strip() == f"{start}/sub"
            absolute = await backend.exec(session.id, ExecRequest("pwd", cwd=f"{start}/sub"))
            assert absolute.stdout == below.stdout

    async def test_a_cwd_that_is_none_is_an_error(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await backend.exec(session.id, ExecRequest("tee", ["file"], stdin=""))
            for cwd in ("missing", "file"):
                with pytest.raises(ExecError) as caught:
                    await backend.exec(session.id, ExecRequest("true", cwd=cwd))
                assert cwd in caught.value.detail

    async def test_files_stay_between_execs(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await backend.exec(session.id, ExecRequest("tee", ["note"], stdin="kept"))
            assert (await self.run(backend, session, "cat", "note")).stdout == "kept"

    async def test_sessions_do_not_share_files(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as one, self.live(backend) as other:
            await backend.exec(one.id, ExecRequest("tee", ["note", f"{OUTPUTS_MOUNT}/note"], stdin="mine"))
            assert not (await self.run(backend, other, "cat", "note")).success
            assert not (await self.run(backend, other, "cat", f"{OUTPUTS_MOUNT}/note")).success

    async def test_a_timeout_is_a_result(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            before = time.monotonic()
            result = await backend.exec(session.id, ExecRequest("sleep", ["600"], timeout=0.3))
            assert (result.timed_out, result.exit_code, result.success) == (True, -1, False)
            assert 0.25 < time.monotonic() - before < 30

    async def test_wall_time_is_the_timeout_of_each_exec(self, backend: SandboxBackend) -> None:
        async with self.live(backend, SandboxSpec(limits=ResourceLimits(wall_time=0.5))) as session:
            assert (await backend.exec(session.id, ExecRequest("sleep", ["600"]))).timed_out
            assert (await backend.exec(session.id, ExecRequest("true"))).success
            assert (await backend.exec(session.id, ExecRequest("sleep", ["1"], timeout=60))).success

    async def test_execs_run_at_once(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            sleeper = asyncio.ensure_future(backend.exec(session.id, ExecRequest("sleep", ["600"])))
            words = [f"word-{number}" for number in range(16)]
            results = await asyncio.gather(*(self.run(backend, session, "echo", word) for word in words))
            assert [result.stdout for result in results] == [f"{word}\n" for word in words]
            assert not sleeper.done()
            sleeper.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeper
            assert (await self.run(backend, session, "true")).success

    @pytest.mark.parametrize(("request_", "part"), MALFORMED, ids=range(len(MALFORMED)))
    async def test_a_request_that_breaks_a_rule(
        self, backend: SandboxBackend, request_: ExecRequest, part: str
    ) -> None:
        async with self.live(backend) as session:
            with pytest.raises(InvalidRequest) as caught:
                await backend.exec(session.id, request_)
            assert part in caught.value.detail

    async def test_an_argument_just_below_the_limit_works(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            word = "x" * 131_071
            assert (await self.run(backend, session, "echo", word)).stdout == f"{word}\n"
