"""What needs the host's root to be staged: mounts on the host, other people, groups, full file systems."""
# ruff: noqa: ASYNC220, ASYNC240 - a test's own loop may wait for the host

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TREE, PlainUser
from tests.local import outside
from tests.security.conftest import MakeCell

pytestmark = [pytest.mark.security, pytest.mark.root]

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TREE), *sys.path])}


def apart(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script whose mounts nobody else sees: in a mount namespace of its own, all of it shared within."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f"mount --make-rshared /\n{script}", "sh"]
    return subprocess.run(
        [*argv, *arguments], capture_output=True, check=False, cwd=TREE, env=ENVIRONMENT, text=True, timeout=50
    )


async def test_fs09_a_later_mount_of_the_hosts_does_not_show_inside(tmp_path: Path) -> None:
    (tmp_path / "shown" / "below").mkdir(parents=True)
    (tmp_path / "mirror").mkdir()
    script = (
        'mount --bind "$2/shown" "$2/mirror"; '
        '"$1" -m tests.security.driver propagation "$2/store" "$2/shown" "$2/mirror"'
    )
    done = apart(script, sys.executable, str(tmp_path))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "control: later" in said, done.stdout  # a peer of the harness's own saw it
    assert "inside: []" in said
    assert not os.path.ismount(tmp_path / "shown" / "below")


@pytest.mark.parametrize(
    ("bytes_", "inodes"), [(size << 10, 0) for size in range(64, 400, 48)] + [(0, n) for n in range(6, 40, 4)]
)
async def test_sr08_a_store_that_is_full(tmp_path: Path, bytes_: int, inodes: int) -> None:
    (tmp_path / "store").mkdir()
    script = (
        f'mount -t tmpfs -o size={bytes_ or "16m"},nr_inodes={inodes or 4096},mode=700 none "$2/store"; '
        '"$1" -m tests.security.driver full "$2/store"'
    )
    done = apart(script, sys.executable, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"made and gone", "refused and gone"}, done.stdout + done.stderr


async def test_fs11_set_id_files_are_out_of_other_peoples_reach(make_cell: MakeCell, plain_user: PlainUser) -> None:
    cell = await make_cell(set_id=True)
    await cell.hostile("setid", "/workspace")
    path = cell.directory / "workspace" / "c4755"
    assert path.stat().st_mode & stat.S_ISUID
    assert plain_user.run("cat", "/etc/hostname").returncode == 0
    done = plain_user.run(str(path))
    assert done.returncode != 0
    assert "denied" in done.stderr


async def test_pk14_a_set_id_program_gives_its_owners_rights_where_it_may(tmp_path: Path, corpus: Path) -> None:
    """The control of the PK14 family: on the host the same file does make an effective uid."""
    program = tmp_path / "identity"
    program.write_bytes((corpus / "identity").read_bytes())
    program.chmod(0o4755)
    with program.open("rb") as file:
        argv = [f"/proc/self/fd/{file.fileno()}"]
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[], pass_fds=[file.fileno()]
        ) as control:
            assert control.stdout is not None
            assert control.stdout.readline() == "uid 65534 euid 0\n"
            control.kill()


async def test_pk16_a_process_of_the_hosts_can_be_moved_into_a_group(make_cell: MakeCell) -> None:
    """The control of the PK16 family: what a guest cannot do to itself, the host can do, and it shows."""
    cell = await make_cell()
    groups = outside.groups(await cell.resident())
    (path,) = [f"/sys/fs/cgroup/pids{where}" for names, where in groups.items() if names == "pids"]
    with subprocess.Popen(["sleep", "100000"]) as process:
        Path(path, "tasks").write_text(str(process.pid))
        assert outside.groups(process.pid)["pids"] == groups["pids"]
        process.kill()


async def test_pk12_hosts_root_is_what_two_sessions_do_not_share(make_cell: MakeCell) -> None:
    bases = [outside.id_map(await (await make_cell()).resident(), "uid")[0][1] for _ in range(8)]
    assert len(set(bases)) == len(bases)
    assert all((base - 0x2000_0000) % 65_536 == 0 for base in bases)
