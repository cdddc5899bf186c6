"""`AsyncSandbox`: the asynchronous class, over real sessions."""

import asyncio

import pytest

from alcove import (
    AsyncSandbox,
    ExecRequest,
    FilesystemAccess,
    InvalidRequest,
    LocalSandbox,
    LocalSandboxConfig,
    SessionNotFound,
)
from alcove.sandbox import CommandError
from alcove.testing import FakeBackend
from tests.sandbox.store import ids

pytestmark = pytest.mark.user


async def test_three_lines_run_something(config: LocalSandboxConfig) -> None:
    async with AsyncSandbox(config=config) as box:
        assert (await box.run("echo hello")).stdout == "hello\n"
        assert (await box.run(["cat"], stdin=b"\xff")).stdout == "\ufffd"
        assert (await box.exec(ExecRequest("pwd"))).stdout == "/workspace\n"
        session = await box.attach("", "/fresh", access=FilesystemAccess.READ_WRITE)
        assert session == box.session
        await box.run("touch /fresh/new", check=True)
        with pytest.raises(CommandError):
            await box.run("exit 1", check=True)
    assert ids(config) == []
    with pytest.raises(SessionNotFound):
        await box.run("true")


async def test_many_commands_and_sessions_over_one_backend(config: LocalSandboxConfig) -> None:
    backend = LocalSandbox(config)

    async def one(number: int) -> str:
        async with AsyncSandbox(backend=backend) as box:
            answers = await asyncio.gather(*(box.run(["echo", f"{number}.{part}"]) for part in range(3)))
            return "".join(answer.stdout for answer in answers)

    answers = await asyncio.gather(*(one(number) for number in range(6)))
    assert answers == [f"{number}.0\n{number}.1\n{number}.2\n" for number in range(6)]
    assert backend.sessions() == []
    await backend.aclose()


async def test_connect(config: LocalSandboxConfig) -> None:
    async with AsyncSandbox(config=config) as box:
        await box.run("echo mine > file", check=True)
        async with AsyncSandbox.connect(box.session.id, config=config) as again:
            assert (await again.run("cat file")).stdout == "mine\n"
        assert ids(config) == [box.session.id]
        with pytest.raises(InvalidRequest, match="not open"):
            await AsyncSandbox.connect(box.session.id, config=config).run("true")
    with pytest.raises(SessionNotFound):
        await again.start()


async def test_a_backend_that_cannot_look_up_says_so() -> None:
    class Forgetful(FakeBackend):
        session = property()  # hides one that the fake may have

    with pytest.raises(Exception, match="does not support connecting to a session by its id"):
        await AsyncSandbox.connect("x", backend=Forgetful()).start()


async def test_cancelling_leaves_nothing(config: LocalSandboxConfig) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with AsyncSandbox(config=config) as box:
            await box.run("true", check=True)
            begun.set()
            await box.run("(setsid sleep 60 &); sleep 60")

    for cancellations in (1, 3):
        begun.clear()
        task = asyncio.create_task(work())
        await begun.wait()
        for _ in range(cancellations):  # a second one must not stop the first one's cleaning up
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ids(config) == []


async def test_cancelled_while_it_is_made(config: LocalSandboxConfig) -> None:
    for turns in range(12):
        task = asyncio.create_task(AsyncSandbox(config=config).start())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.cancel():  # made by now: a busy machine took long over these turns
            await task.result().terminate()
            continue
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ids(config) == []
