"""Supervisors that are struck while they do one thing, and what must be left when they are gone."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import Limited, SandboxSpec
from alcove.local import LocalSandbox, LocalSandboxConfig, native
from tests.local import outside

CLOSED = SandboxSpec(network_policy=Limited(allowed_hosts=[]))
#: How many times a test strikes at each of its points: `make soak` takes the whole count.
SAMPLE, WHOLE = 1, 20
counted = pytest.mark.parametrize(
    "times",
    [
        pytest.param(SAMPLE, id="sample", marks=[pytest.mark.timeout(300)]),
        pytest.param(WHOLE, id="whole", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)


def groups_of(key: str) -> list[str]:
    return [where for where, _, _ in os.walk("/sys/fs/cgroup") if where.endswith(f"/alcove-{key}")]


def processes_of(key: str) -> list[int]:
    return [pid for role in ("warden", "init", "spawner", "exec") for pid in outside.called(f"alcove-{role}", key)]


class Supervisors:
    """A process that imported everything, and makes supervisors that are struck while they do one thing."""

    def __init__(self, store: Path) -> None:
        self.store = store
        new_backend(store)._store.close()
        argv = [sys.executable, "-m", "tests.security.driver", "serve"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *request: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def struck(self, deed: str, at: int, kind: str) -> dict[str, Any]:
        said: dict[str, Any] = self.ask(str(self.store), deed, at, kind)
        return said

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def keys(self) -> set[str]:
        """Return the key of every session that has a row or a directory."""
        keys = {path.name.partition(".")[0] for path in (self.store / "sessions").iterdir()}
        with sqlite3.connect(self.store / "store.db") as database:
            return keys | {key for (key,) in database.execute("SELECT key FROM sessions WHERE ended IS NULL")}

    def forget(self) -> None:
        """Let the id be given again at once."""
        with sqlite3.connect(self.store / "store.db") as database:
            database.execute("DELETE FROM sessions WHERE ended IS NOT NULL")

    async def nothing_is_left(self, keys: set[str]) -> None:
        await outside.until(lambda: self.ask() == [], f"still there: {self.ask()}", 5)
        for key in keys:
            assert processes_of(key) == []
            assert groups_of(key) == []
        assert list((self.store / "sessions").iterdir()) == []
        self.forget()


def new_backend(store: Path, *, launcher: Path | None = None, **fields: Any) -> LocalSandbox:
    return LocalSandbox(LocalSandboxConfig(root_dir=str(store), native=str(launcher or native.find()), **fields))
