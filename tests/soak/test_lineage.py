"""One lineage over many cycles of write, suspend, resume, snapshot and fork: each file's hash is right at each step."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from alcove import ExecRequest, Limited, LocalSandbox, LocalSandboxConfig, SandboxSpec
from alcove.local.snapshots.upkeep import Upkeep
from alcove.testing import no_leaks

pytestmark = pytest.mark.usefixtures("tmp_of_its_own")

WHOLE = 100
SAMPLE = 12
#: Cycles after which what lies behind is made durable and flattened.
UPKEEP = 6
SPEC = SandboxSpec(network_policy=Limited(allowed_hosts=[]))

_APPLY = """
import json, os, sys
for kind, path, content in json.load(sys.stdin):
    if kind == "write":
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(content)
    elif kind == "append":
        open(path, "a").write(content)
    elif kind == "remove":
        os.unlink(path)
    else:
        os.rename(path, content)
"""
_HASHES = """
import hashlib, json, os
found = {}
for top in ("/workspace", "/tmp", "/mnt/session/outputs"):
    for where, _, names in os.walk(top):
        for name in names:
            path = os.path.join(where, name)
            found[path] = hashlib.sha256(open(path, "rb").read()).hexdigest()
print(json.dumps(found))
"""


class Lineage:
    """What every file of the present session should be, told by nobody but the test."""

    def __init__(self, backend: LocalSandbox, seed: int) -> None:
        self.backend = backend
        self.chance = random.Random(seed)
        self.files: dict[str, str] = {}
        self.kept: dict[str, dict[str, str]] = {}

    def hashes(self, files: dict[str, str]) -> dict[str, str]:
        return {path: hashlib.sha256(content.encode()).hexdigest() for path, content in files.items()}

    def changes(self, cycle: int) -> list[tuple[str, str, str]]:
        made: list[tuple[str, str, str]] = []
        for number in range(self.chance.randrange(3, 9)):
            top = self.chance.choice(["/workspace", "/workspace/a/b", "/workspace/c", "/tmp", "/mnt/session/outputs"])
            path, content = f"{top}/f{self.chance.randrange(12)}", f"{cycle}.{number}." * self.chance.randrange(1, 2000)
            kind = self.chance.choice(["write", "write", "append", "remove", "rename"])
            if kind == "write":
                self.files[path] = content
            elif path not in self.files:
                continue
            elif kind == "append":
                self.files[path] += content
            elif kind == "remove":
                del self.files[path]
            else:
                content = f"{path}-was"
                self.files[content] = self.files.pop(path)
            made.append((kind, path, content))
        return made

    async def guest(self, session_id: str, program: str, stdin: str = "") -> str:
        request = ExecRequest("/usr/bin/python3", ["-c", program], stdin=stdin, timeout=60)
        result = await self.backend.exec(session_id, request)
        assert result.success, result
        return result.stdout

    async def check(self, session_id: str, files: dict[str, str]) -> None:
        assert json.loads(await self.guest(session_id, _HASHES)) == self.hashes(files)

    async def cycle(self, session_id: str, number: int) -> str:
        """Go through everything once; return the fork that the lineage goes on with."""
        await self.guest(session_id, _APPLY, json.dumps(self.changes(number)))
        await self.check(session_id, self.files)
        await self.backend.suspend(session_id)
        await self.backend.resume(session_id)
        await self.check(session_id, self.files)
        snapshot = await self.backend.snapshot(session_id)
        self.kept[snapshot.snapshot_id] = dict(self.files)
        await self.check(session_id, self.files)
        fork = await self.backend.fork(session_id)
        await self.backend.terminate(session_id)
        await self.check(fork.id, self.files)
        return fork.id

    async def check_the_past(self) -> None:
        for snapshot_id in self.chance.sample(sorted(self.kept), min(3, len(self.kept))):
            begun = await self.backend.provision(replace(SPEC, rootfs=f"snapshot:{snapshot_id}"))
            await self.check(begun.id, self.kept[snapshot_id])
            await self.backend.terminate(begun.id)


async def cycles(store: Path, count: int) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
    lineage = Lineage(backend, count)
    session_id = str((await backend.provision(SPEC)).id)
    for number in range(count):
        session_id = await lineage.cycle(session_id, number)
        if number % UPKEEP == UPKEEP - 1:
            await Upkeep(backend._store).run()
            await lineage.check(session_id, lineage.files)
            await lineage.check_the_past()
    await backend.terminate(session_id)
    for snapshot_id in lineage.kept:
        await backend.delete_snapshot(snapshot_id)
    await backend.aclose()


async def a_lineage_holds(tmp_path: Path, count: int) -> None:
    store = tmp_path / "store"
    await cycles(store, 1)  # what is made once for a store stays
    async with no_leaks(store):
        await cycles(store, count)
    for place in ("sessions", "layers"):
        assert list((store / place).iterdir()) == []


@pytest.mark.user
@pytest.mark.timeout(180)
async def test_a_sample_of_cycles_loses_nothing(tmp_path: Path) -> None:
    await a_lineage_holds(tmp_path, SAMPLE)


@pytest.mark.soak
@pytest.mark.user
@pytest.mark.timeout(1800)
async def test_a_hundred_cycles_lose_nothing(tmp_path: Path) -> None:
    await a_lineage_holds(tmp_path, WHOLE)
