"""`alcove df`."""

import asyncio
import os
import pty
import subprocess
import time
from collections.abc import Callable, Coroutine
from typing import NoReturn

import pytest

from alcove.cli import df
from alcove.cli.df import size
from alcove.cli.table import COMMANDS
from alcove.local.exec.terminal import TerminalSandbox
from tests.cli.cli import WITHIN, Cli, read_until

pytestmark = pytest.mark.user


def test_the_store_and_its_sessions(alcove: Cli) -> None:
    alcove.create("--id", "big")
    alcove.out("exec", "big", "--", "head", "-c", "2M", "/dev/zero")
    alcove.out("exec", "big", "--", "sh", "-c", "head -c 2097152 /dev/urandom >file")
    usage = alcove.json("df")
    (session,) = usage["sessions"]
    assert session["id"] == "big"
    assert 2 << 20 <= session["own"] < 3 << 20
    lines = alcove.out("df").splitlines()
    assert lines[0].split() == ["store", str(alcove.store)]
    assert lines[1].split()[0] == "disk"
    assert lines[1].endswith("of it reserved")
    assert [line.split() for line in lines[6:]] == [
        ["SESSION", "OWN", "LIMIT", "LAYERS", "BELOW"],
        ["big", size(session["own"]).split()[0], "MiB", "0", "B"],
    ]


def test_on_a_terminal_there_is_a_bar(alcove: Cli) -> None:
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*alcove.command, "df"], stdin=slave, stdout=slave, stderr=slave, env=alcove.environment
        )
        os.close(slave)
        shown = read_until(master, b"reclaimable")
        assert process.wait(WITHIN) == 0
    finally:
        os.close(master)
    assert "█ used ░ free ▒ reserved" in shown.decode()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (200 << 30, "200 GiB"),
        (9 << 50, "9216 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_it_ends_when_it_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(TerminalSandbox):
        def __init__(self) -> None:
            pass

        def usage(self, looked: Callable[[int], None] | None = None) -> NoReturn:
            while looked is not None:
                looked(1)
                time.sleep(0.01)
            raise AssertionError

    def hurried(_given: object, work: Callable[[object], Coroutine[object, object, int]]) -> int:
        return asyncio.run(asyncio.wait_for(work(Endless()), 0.1))

    monkeypatch.setattr(df, "with_backend", hurried)
    with pytest.raises(TimeoutError):
        df.df(COMMANDS.parse(["df", "--json"]))
