"""Snapshots worth an archive, and what to look at in those that came in."""

import os
import sqlite3
from pathlib import Path

from alcove.contract import Limited, SandboxSnapshot, SandboxSpec
from alcove.local import LocalSandbox
from tests.local.cell import live

OFFLINE = Limited()
SECRET = "what-was-deleted-must-not-be-found"
FURNISH = """
import os
os.makedirs('deep/er'); os.chmod('deep', 0o751)
open('content', 'wb').write(bytes(range(256)) * 500)
os.setxattr('content', 'user.note', b'\\0binary')
os.link('content', 'deep/hard')
os.symlink('/etc/passwd', 'deep/soft')
os.mkfifo('fifo', 0o640)
open(b'odd-\\xff\\n', 'w').write('bytes')
open('script', 'w').write('#!/bin/sh\\necho ran\\n'); os.chmod('script', 0o755)
with open('sparse', 'wb') as file: file.truncate(1 << 22)
os.utime('deep/er', ns=(0, 7_000_000_007))
open('/tmp/scratch', 'w').write('in tmp'); os.chmod('/tmp/scratch', 0o600)
open('/mnt/session/outputs/report', 'w').write('put out')
"""
LISTING = """
import hashlib, os, stat
for top in ('/workspace', '/tmp', '/mnt/session/outputs'):
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in [b'.', *names, *files]:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            content = hashlib.sha256(open(path, 'rb').read()).hexdigest() if stat.S_ISREG(found.st_mode) else ''
            link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ''
            xattrs = [] if link else [(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))]
            # a mount's own directory is made anew with each session
            moment = 0 if os.fsdecode(directory) == top and name == b'.' else found.st_mtime_ns
            print(path, oct(found.st_mode), found.st_uid, found.st_gid, content, link, xattrs, moment)
"""


def there_of(store: Path) -> Path:
    return store.with_name("elsewhere")


def layers_of(store: Path) -> list[Path]:
    return sorted((store / "layers").iterdir())


def uses(store: Path) -> list[str]:
    with sqlite3.connect(store / "store.db") as database:
        found = [row[0] for row in database.execute("SELECT owner FROM uses ORDER BY owner")]
    database.close()
    return found


async def look(backend: LocalSandbox, reference: str) -> str:
    """What a session that begins with a snapshot has."""
    spec = SandboxSpec(network_policy=OFFLINE, rootfs=f"snapshot:{reference}")
    async with live(backend, spec) as cell:
        result = await cell.python(LISTING)
        assert result.success, result.stderr
        return "\n".join(sorted(result.stdout.splitlines()))


async def lineage(backend: LocalSandbox) -> SandboxSnapshot:
    """Return the second of two snapshots, in which something of the first is gone and something else is."""
    async with live(backend) as cell:
        assert (await cell.python(FURNISH)).success
        await cell.out(f"mkdir secrets && echo {SECRET} > secrets/key && touch old")
        if os.geteuid() == 0:
            await cell.out("touch theirs && chown 1000:1001 theirs")
        await backend.snapshot(cell.id)
        await cell.out("rm -r secrets old && mkdir old && touch old/new && echo more > content")
        return await backend.snapshot(cell.id, name="second")


async def freed(backend: LocalSandbox, store: Path) -> None:
    """Delete every snapshot, and see nothing left of them."""
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)
    assert (layers_of(store), uses(store)) == ([], [])


async def noisy(backend: LocalSandbox, size: int) -> None:
    """Make a snapshot called `noise` that does not compress."""
    async with live(backend) as cell:
        await cell.out(f"head -c {size} /dev/urandom > noise; for i in $(seq 200); do echo $i > $i; done")
        await backend.snapshot(cell.id, name="noise")
