"""The few programs that a fake session has: enough of each for the contract suite and for a script around it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct, field

from alcove.testing.fake_files import FakeFileError, FakeFiles, resolved


class Call(Struct):
    """One program's run: what it was given, and what it wrote so far (kept when it is stopped)."""

    name: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdin: bytes
    files: FakeFiles
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)

    def complain(self, about: str, why: object) -> None:
        """Write `name: about: why` to standard error, as programs do."""
        self.stderr += f"{self.name}: {about}: {why}\n".encode()


Command = Callable[[Call], Awaitable[int]]


async def _true(_call: Call) -> int:
    return 0


async def _false(_call: Call) -> int:
    return 1


async def _echo(call: Call) -> int:
    call.stdout += " ".join(call.args).encode("utf-8", "surrogateescape") + b"\n"
    return 0


async def _cat(call: Call) -> int:
    status = 0
    for name in call.args or ("-",):
        try:
            call.stdout += call.stdin if name == "-" else call.files.read(resolved(name, call.cwd))
        except FakeFileError as error:
            call.complain(name, error)
            status = 1
    return status


async def _tee(call: Call) -> int:
    call.stdout += call.stdin
    status = 0
    for name in call.args:
        try:
            call.files.write(resolved(name, call.cwd), call.stdin)
        except FakeFileError as error:
            call.complain(name, error)
            status = 1
    return status


async def _rm(call: Call) -> int:
    status = 0
    for name in call.args:
        try:
            call.files.remove(resolved(name, call.cwd))
        except FakeFileError as error:
            call.complain(name, error)
            status = 1
    return status


async def _mkdir(call: Call) -> int:
    status = 0
    for name in call.args:
        try:
            call.files.make_directory(resolved(name, call.cwd))
        except FakeFileError as error:
            call.complain(name, error)
            status = 1
    return status


async def _pwd(call: Call) -> int:
    call.stdout += f"{call.cwd}\n".encode()
    return 0


async def _env(call: Call) -> int:
    for key, value in call.env.items():
        call.stdout += f"{key}={value}\n".encode("utf-8", "surrogateescape")
    return 0


async def _sleep(call: Call) -> int:
    try:
        seconds = sum(map(float, call.args))
    except ValueError as error:
        call.complain("invalid time interval", error)
        return 1
    await asyncio.sleep(seconds)
    return 0


COMMANDS: dict[str, Command] = {
    "cat": _cat,
    "echo": _echo,
    "env": _env,
    "false": _false,
    "mkdir": _mkdir,
    "pwd": _pwd,
    "rm": _rm,
    "sleep": _sleep,
    "tee": _tee,
    "true": _true,
}
