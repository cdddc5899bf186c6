# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases for a backend that runs real processes; the guest needs a POSIX shell and /proc."""

import asyncio
import itertools
import secrets

import pytest

from alcove.contract.errors import ExecError
from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import ExecRequest, SandboxSession
from alcove.testing.cases import Cases

#: Prints the command line of every process that the guest sees, one a line.
_PROCESSES = 'for place in /proc/[0-9]*; do tr "\\0" " " < "$place/cmdline" && echo; done 2>/dev/null; true'


class RealExecCases(Cases):
    """What only a real process can show: streams, signals, trees, pipes."""

    async def running(self, backend: SandboxBackend, session: SandboxSession, mark: str) -> bool:
        """Tell whether a process with `mark` in its command line is alive in the session."""
        return mark in (await self.sh(backend, session, _PROCESSES)).stdout

    async def until(self, backend: SandboxBackend, session: SandboxSession, mark: str, *, running: bool) -> None:
        """Return when a process with `mark` is there, or is gone; each look is an exec, and there are only so many."""
        for look in itertools.count():
            if await self.running(backend, session, mark) is running:
                return
            assert look < 500, f"{mark}: still {'absent' if running else 'running'}"

    async def test_streams_and_exit_code(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.sh(backend, session, "echo out; echo err >&2; exit 7")
            assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 7)
            assert not result.success

    @pytest.mark.parametrize("code", [0, 1, 2, 100, 125, 126, 127, 128, 255])
    async def test_exit_codes_are_not_guessed_at(self, backend: SandboxBackend, code: int) -> None:
        async with self.live(backend) as session:
            result = await self.sh(backend, session, 'exit "$1"', str(code))
            assert (result.exit_code, result.signal) == (code, None)

    @pytest.mark.parametrize("number", [9, 15, 11])
    async def test_death_by_signal(self, backend: SandboxBackend, number: int) -> None:
        async with self.live(backend) as session:
            result = await self.sh(backend, session, 'kill -"$1" $$; sleep 600', str(number))
            assert (result.exit_code, result.signal) == (128 + number, number)

    @pytest.mark.parametrize("builtin", [("umask",), ("ulimit", "-n"), ("type", "sh"), ("cd", "/")])
    async def test_a_shell_builtin_is_a_command(self, backend: SandboxBackend, builtin: tuple[str, ...]) -> None:
        async with self.live(backend) as session:
            assert (await self.run(backend, session, *builtin)).success

    async def test_a_timeout_keeps_the_output(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            request = ExecRequest("sh", ["-c", "echo before; echo warned >&2; sleep 600; echo after"], timeout=1)
            result = await backend.exec(session.id, request)
            assert (result.timed_out, result.exit_code) == (True, -1)
            assert (result.stdout, result.stderr) == ("before\n", "warned\n")

    async def test_a_timeout_kills_the_children(self, backend: SandboxBackend) -> None:
        mark = _mark()
        async with self.live(backend) as session:
            request = ExecRequest("sh", ["-c", f"sleep {mark} & sleep 600; echo after"], timeout=1)
            assert (await backend.exec(session.id, request)).timed_out
            await self.until(backend, session, mark, running=False)

    async def test_cancelling_kills_the_tree(self, backend: SandboxBackend) -> None:
        mark = _mark()
        async with self.live(backend) as session:
            task = asyncio.ensure_future(self.sh(backend, session, f"sleep {mark} & sleep 600"))
            await self.until(backend, session, mark, running=True)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await self.until(backend, session, mark, running=False)

    async def test_a_background_child_holds_nothing_back(self, backend: SandboxBackend) -> None:
        mark = _mark()
        async with self.live(backend) as session:
            result = await self.sh(backend, session, f"sleep {mark} & echo $!")
            assert result.success
            assert await self.running(backend, session, mark)
            assert (await self.sh(backend, session, 'kill "$1"', result.stdout.strip())).success
            await self.until(backend, session, mark, running=False)

    async def test_execs_meet_in_a_pipe(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert (await self.sh(backend, session, "mkfifo meet")).success
            reader, writer = await asyncio.gather(
                self.sh(backend, session, "cat meet"), self.sh(backend, session, "echo met > meet")
            )
            assert (reader.stdout, writer.success) == ("met\n", True)

    async def test_a_long_stdin_is_read_whole(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            size = 3 * 1024 * 1024 + 1
            result = await backend.exec(session.id, ExecRequest("wc", ["-c"], stdin="x" * size, timeout=30))
            assert result.stdout.split() == [str(size)]

    async def test_an_unread_stdin_holds_nothing_back(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await backend.exec(session.id, ExecRequest("true", stdin="x" * 3_000_000, timeout=30))
            assert result.success

    async def test_long_output_of_both_streams(self, backend: SandboxBackend) -> None:
        script = "i=0; while [ $i -lt 20000 ]; do echo out-$i; echo err-$i >&2; i=$((i+1)); done"
        async with self.live(backend) as session:
            result = await self.sh(backend, session, script)
            assert result.stdout == "".join(f"out-{number}\n" for number in range(20000))
            assert result.stderr == "".join(f"err-{number}\n" for number in range(20000))

    async def test_a_mebibyte_of_arguments(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            result = await self.sh(backend, session, "echo $#", *(["x" * 65_536] * 15))
            assert result.stdout == "15\n"

    async def test_one_exec_can_signal_another(self, backend: SandboxBackend) -> None:
        mark = _mark()
        async with self.live(backend) as session:
            task = asyncio.ensure_future(self.sh(backend, session, f"echo $$ > pid; exec sleep {mark}"))
            await self.until(backend, session, mark, running=True)
            assert (await self.sh(backend, session, 'kill -TERM "$(cat pid)"')).success
            result = await task
            assert (result.exit_code, result.signal) == (143, 15)

    async def test_the_error_of_a_cwd_says_which_and_why(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert (await self.sh(backend, session, ": > plain")).success
            for cwd in ("plain", "absent"):
                with pytest.raises(ExecError, match=cwd):
                    await backend.exec(session.id, ExecRequest("true", cwd=cwd))


def _mark() -> str:
    """Return a number of seconds to sleep that no other process sleeps."""
    return f"6000{secrets.randbelow(10**9):09}"
