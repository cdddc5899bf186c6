"""Archives of what only root can have: a root file system of its own, several owners, and a disk that is full."""

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alcove.contract import InvalidRequest, SandboxSpec
from alcove.local import LocalSandbox, LocalSandboxConfig
from tests.conftest import PlainUser
from tests.local.cell import live
from tests.local.transfers import OFFLINE, freed, lineage, noisy, there_of

pytestmark = pytest.mark.root


async def test_a_root_of_its_own_is_the_same_elsewhere(store: Path) -> None:
    here, there = (
        LocalSandbox(LocalSandboxConfig(root_dir=str(path), rootfs="owned")) for path in (store, there_of(store))
    )
    see = "ls /usr/games /etc/skel 2>&1; cat /etc/own; stat -c %a:%u /etc/own; ls /usr/share/gone"
    async with live(here, SandboxSpec(network_policy=OFFLINE, set_id=True)) as cell:
        await cell.out("mkdir /usr/share/gone && touch /usr/share/gone/file && echo mine > /etc/own")
        await here.snapshot(cell.id)
        await cell.out(
            "rm -r /usr/games /usr/share/gone/file; rm -rf /etc/skel && mkdir /etc/skel && touch /etc/skel/n"
        )
        await cell.out("chown 7 /etc/own && chmod 4711 /etc/own")
        snapshot = await here.snapshot(cell.id)
        wanted = await cell.out(see)
    for flat in (False, True):
        archive = io.BytesIO()
        await here.export_snapshot(snapshot.snapshot_id, archive, flat=flat)
        archive.seek(0)
        with pytest.raises(InvalidRequest, match="set-id bit"):
            await there.import_snapshot(archive)
        archive.seek(0)
        made = await there.import_snapshot(archive, set_id=True)
        spec = SandboxSpec(network_policy=OFFLINE, rootfs=f"snapshot:{made.snapshot_id}")
        async with live(there, spec) as cell:
            assert await cell.out(see) == wanted
    await freed(here, store)
    await freed(there, there_of(store))
    await here.aclose()
    await there.aclose()


FULL = """
import asyncio, os, subprocess, sys
from alcove.contract import SandboxIoError
from alcove.local import LocalSandbox, LocalSandboxConfig
place, large, small = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True)

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=f"{place}/store"))
    try:
        await backend.import_snapshot(large)
    except SandboxIoError as error:
        print(error)
    print(os.listdir(f"{place}/store/layers"), backend.snapshots())
    print((await backend.import_snapshot(small)).metadata["layers"])

asyncio.run(main())
"""


async def test_a_full_disk_is_told_and_leaves_nothing(backend: LocalSandbox, store: Path) -> None:
    await noisy(backend, 8 << 20)
    async with live(backend) as cell:
        await cell.out("touch little")
        await backend.snapshot(cell.id, name="small")
    paths = [store.with_name(name) for name in ("noise", "small")]
    for path in paths:
        await backend.export_snapshot(path.name, path)
    store.with_name("mounted").mkdir()
    argv = ["unshare", "-m", sys.executable, "-c", FULL, str(store.with_name("mounted")), *map(str, paths)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False, text=True, timeout=30)
    refusal, left, after = done.stdout.splitlines() or [done.stderr] * 3
    assert refusal.startswith("sandbox I/O failed: the import failed: No space left on device"), done.stderr
    assert (left, after) == ("[] []", "1")
    await freed(backend, store)


IMPORTED = """
import asyncio, json, sys
from alcove.contract import ExecRequest, Limited, SandboxSpec
from alcove.local import LocalSandbox, LocalSandboxConfig

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1]))
    made = await backend.import_snapshot(sys.argv[2])
    spec = SandboxSpec(network_policy=Limited(), rootfs=f"snapshot:{made.snapshot_id}")
    session = await backend.provision(spec)
    found = await backend.exec(session.id, ExecRequest("find", [".", "-printf", "%U:%G\\n"]))
    await backend.terminate(session.id)
    print(json.dumps({"owners": made.metadata["owners"], "seen": sorted(set(found.stdout.split()))}))
    await backend.aclose()

asyncio.run(main())
"""


async def test_owners_are_one_for_a_plain_user(backend: LocalSandbox, store: Path, plain_user: PlainUser) -> None:
    await lineage(backend)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("second", archive)
    place = Path(tempfile.mkdtemp(prefix="alcove-plain-", dir="/tmp"))
    try:
        os.chown(place, plain_user.uid, plain_user.gid)
        (place / "archive").write_bytes(archive.read_bytes())
        argv = [str(plain_user.python), "-c", IMPORTED, str(place / "store"), str(place / "archive")]
        done = await asyncio.to_thread(plain_user.run, *argv)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"owners": "squashed", "seen": ["0:0"]}
    finally:
        shutil.rmtree(place)
    await freed(backend, store)
