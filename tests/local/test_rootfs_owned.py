# ruff: noqa: ASYNC240 - small files of the host, read in between
"""An `owned` root: the guest's root may change /usr, /etc and /var, and the host's stay as they are."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.contract import Limited, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = [pytest.mark.root, pytest.mark.security]


@pytest.fixture
def config(store: Path) -> LocalSandboxConfig:
    return LocalSandboxConfig(root_dir=str(store), rootfs="owned")


@pytest.fixture(params=["/etc", "/opt", "/usr/local", "/var"])
def canary(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a file of the host's in a directory that the guest's root owns a copy of."""
    directory = Path(request.param, f"alcove-owned-{os.getpid()}")
    directory.mkdir(mode=0o755)
    file = directory / "file"
    try:
        file.write_text("the host's")
        yield file
    finally:
        file.unlink()
        directory.rmdir()


async def test_the_session_says_so(cell: Cell) -> None:
    assert cell.session.metadata["root"] == "host:owned"
    assert await cell.out("stat -c '%U %G' /usr /etc /var /usr/bin/env | sort -u") == "root root\n"


async def test_what_the_guest_writes_stays_in_the_session(backend: LocalSandbox, cell: Cell, canary: Path) -> None:
    before = canary.stat()
    assert await cell.out('cat "$1"', str(canary)) == "the host's"
    await cell.out('echo guest > "$1"; chmod 600 "$1"; mkdir "$1.d"; echo new > "$1.d/f"', str(canary))
    assert await cell.out('cat "$1" "$1.d/f"', str(canary)) == "guest\nnew\n"
    after = canary.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_mode, after.st_uid) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_mode,
        before.st_uid,
    )
    assert canary.read_text() == "the host's"
    assert [path.name for path in canary.parent.iterdir()] == ["file"]
    async with live(backend) as other:
        assert await other.out('cat "$1"; ls "$(dirname "$1")"', str(canary)) == "the host'sfile\n"


async def test_what_the_guest_removes_stays_on_the_host(cell: Cell, canary: Path) -> None:
    await cell.out('rm -r "$(dirname "$1")"; test ! -e "$1"', str(canary))
    assert canary.read_text() == "the host's"
    await cell.sh("rm -rf /usr/share/doc /etc/passwd-; mv /usr/bin/env /usr/bin/env.away")
    assert Path("/usr/bin/env").exists()


async def test_it_comes_back_as_the_guest_left_it(cell: Cell, canary: Path) -> None:
    await cell.out('echo guest > "$1"; echo added >> /etc/motd', str(canary))
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(warden))
    assert await cell.out('cat "$1"; tail -1 /etc/motd', str(canary)) == "guest\nadded\n"


async def test_overlay_options_that_follow_crafted_metadata_are_off(cell: Cell) -> None:
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    rows = outside.read(await outside.one(number), "mountinfo").splitlines()
    overlays = [row for row in rows if " - overlay " in row and "upperdir=" in row]
    assert len(overlays) >= 3
    for row in overlays:
        options = row.rpartition(" ")[2].split(",")
        assert "userxattr" in options
        assert not {"metacopy=on", "redirect_dir=on", "redirect_dir=follow"} & set(options)


async def test_no_set_id_bit_helps(backend: LocalSandbox, cell: Cell) -> None:
    assert not (await cell.sh("chmod u+s /usr/bin/env")).success
    async with live(backend, SandboxSpec(set_id=True, network_policy=Limited())) as setting:
        await setting.out("cp /usr/bin/id /usr/local/bin/id2; chmod 4755 /usr/local/bin/id2")
        # nosuid and no_new_privs: the bit is there and gives nothing
        assert (await setting.exec("/usr/local/bin/id2", ["-u"], user="1000")).stdout == "1000\n"
        left = [path for path in setting.directory.rglob("id2") if path.is_file()]
        assert left
        for path in left:  # on disk it is below a directory that is root's alone
            assert path.stat().st_mode & stat.S_ISUID
            assert stat.S_IMODE(setting.directory.stat().st_mode) == 0o700


async def test_the_hosts_secrets_are_not_the_guests(cell: Cell) -> None:
    for path in ("/root/.ssh", "/etc/ssl/private", "/var/lib/alcove", "/var/lib/private"):
        assert await cell.out('ls -A "$1" 2>/dev/null; true', path) == "", path
    keys = [str(path) for path in Path("/etc/ssh").glob("ssh_host_*_key")] if Path("/etc/ssh").is_dir() else []
    for key in keys:
        assert await cell.out('cat "$1"; true', key) == ""


async def test_users_can_be_added(cell: Cell) -> None:
    result = await cell.sh("groupadd made && useradd -g made -m -d /workspace/made made && id -un made")
    assert result.success, result
    assert (await cell.exec("id", ["-un"], user="made")).stdout == "made\n"
    assert "made" not in Path("/etc/passwd").read_text()


async def test_it_ends_without_a_trace(cell: Cell) -> None:
    await cell.sh(
        "echo x > /usr/x; mkdir -p /var/a/b; chmod 000 /var/a; rm /etc/hostname; mknod /etc/dev c 0 0; mkfifo /opt/f"
    )
    directory = cell.directory
    await cell.backend.terminate(cell.id)
    assert not directory.exists()
    assert not Path("/usr/x").exists()
