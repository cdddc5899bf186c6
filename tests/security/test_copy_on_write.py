"""FS01, A1: a directory by copy-on-write, whatever the guest does in it, and what it leaves for the host to take."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import os
import socket
from pathlib import Path

import pytest

from alcove.contract import FilesystemMount
from tests.conftest import PlainUser
from tests.local import outside
from tests.security.cells import fingerprint, report
from tests.security.conftest import MakeCell, make_canary

pytestmark = [pytest.mark.security, pytest.mark.user]

AS_ROOT = os.geteuid() == 0
TARGET = "/mnt/project"


def by_copy(source: Path, target: str = TARGET) -> FilesystemMount:
    return FilesystemMount(source, target, copy_on_write=True)


@pytest.fixture
def project(tmp_path: Path, plain_user: PlainUser) -> Path:
    """Return a person's directory, to which its modes allow everything, beside one that is nobody's business."""
    top = make_canary(tmp_path / "project")
    (top / "sub" / "inner").write_text("inner\n")
    (top / "out").symlink_to(tmp_path / "vault")
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "secret").write_text("secret\n")
    for path in (top, *top.rglob("*"), tmp_path / "vault"):
        os.chown(path, plain_user.uid, plain_user.gid, follow_symlinks=False)
    return top


class TestHost:
    async def test_cow_the_host_stays_as_it_is(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project))
        before = fingerprint(project)
        said = report((await cell.hostile("writes", TARGET)).stdout)
        assert fingerprint(project) == before
        # what it did it did: in its own view
        assert {name for name, word in said.items() if word != "ok"} <= {"xattr", "exchange", "rmdir", "unlink"}
        assert {(change.kind, change.path) for change in await cell.backend.changes(cell.id)} >= {
            ("deleted", "data"),
            ("added", "newlink"),
        }

    async def test_cow_a_writable_attachment_takes_the_same_attack(self, make_cell: MakeCell, canary: Path) -> None:
        """The harness sees it when there is something to see."""
        if AS_ROOT:
            os.chown(canary, 1, 1)
        cell = await make_cell(FilesystemMount(canary, TARGET, "read_write"))  # type: ignore[arg-type]
        before = fingerprint(canary)
        await cell.hostile("writes", TARGET)
        assert fingerprint(canary) != before

    async def test_cow_aliases_do_not_reach_the_host(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project))
        before = fingerprint(project)
        said = report((await cell.hostile("links", f"{TARGET}/data", TARGET)).stdout)
        assert fingerprint(project) == before
        assert said["link"] == "ok"

    async def test_cow_everything_removed_inside_is_there_outside(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project))
        before = fingerprint(project.parent / "vault"), fingerprint(project)
        assert (await cell.sh(f"cd {TARGET} && rm -rf -- * .[!.]*; ls -A")).stdout == ""
        assert (fingerprint(project.parent / "vault"), fingerprint(project)) == before

    async def test_cow_no_socket_of_the_host_is_connected_to(
        self, make_cell: MakeCell, short_tmp: Path, plain_user: PlainUser
    ) -> None:
        """A read-only mount lets a guest connect; the layer below an overlay does not."""
        short_tmp.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(short_tmp / "socket"))
            server.listen()
            (short_tmp / "socket").chmod(0o777)
            for path in (short_tmp, short_tmp / "socket"):
                os.chown(path, plain_user.uid, plain_user.gid)
            cell = await make_cell(by_copy(short_tmp), FilesystemMount(short_tmp, "/mnt/bound"))
            connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            refused = await cell.run("python3", "-c", connect, f"{TARGET}/socket")
            assert "ConnectionRefusedError" in refused.stderr
            assert (await cell.run("python3", "-c", connect, "/mnt/bound/socket")).success


class TestLayers:
    async def test_cow_the_layers_are_not_seen_in_the_cell(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell()
        pid = await cell.resident()
        before = outside.read(pid, "mountinfo").splitlines()
        await cell.backend.attach_filesystem(cell.id, by_copy(project))
        after = outside.read(pid, "mountinfo").splitlines()
        (added,) = set(after) - set(before)
        assert set(before) < set(after)
        assert added.split(" ")[4] == TARGET
        assert str(project.parent) not in added

    async def test_cow_forged_metadata_gives_nothing(self, make_cell: MakeCell, project: Path) -> None:
        """Also once the overlay is mounted anew over what was forged."""
        (project / "hidden").write_text("of another owner\n")
        (project / "hidden").chmod(0o600)
        cell = await make_cell(by_copy(project))
        before = fingerprint(project)
        stayed = await cell.stay("layers", TARGET, "hidden")
        assert stayed.said["whiteout"] in {"EPERM", "ENOSYS"}
        assert stayed.said["fifo"] == stayed.said["ordinary"] == "ok"
        assert not [name for name, word in stayed.said.items() if name.startswith("trusted.") and word == "ok"]
        assert stayed.said["read"] == ("EACCES" if AS_ROOT else "ok")
        assert fingerprint(project) == before
        await cell.run("kill", "-9", "--", "-1")
        await cell.backend.apply(cell.id, ["forged"])
        seen = await cell.run("cat", f"{TARGET}/forged")
        assert seen.stdout == "forged\n"
        assert (await cell.sh(f"ls {TARGET}")).stdout.split() == ["data", "fifo", "forged", "hidden", "out", "sub"]
        assert not [name for name in os.listxattr(project / "forged") if "overlay" in name]

    @pytest.mark.skipif(not AS_ROOT, reason="a plain user's session has the rights of that user")
    async def test_cow_what_another_owner_keeps_to_himself_is_not_read(
        self, make_cell: MakeCell, project: Path
    ) -> None:
        (project / "hidden").write_text("of the host's root\n")
        (project / "hidden").chmod(0o600)
        cell = await make_cell(by_copy(project))
        for attempt in ("cat hidden", "cp hidden copy", "mv hidden moved && cat moved", "ln hidden l && cat l"):
            done = await cell.sh(f"cd {TARGET} && chmod 644 hidden; {attempt}")
            assert "root" not in done.stdout, attempt
        assert (await cell.sh(f"cat {TARGET}/sub/inner")).stdout == "inner\n"


class TestApplied:
    async def test_cow_a_link_in_a_directorys_place_leads_nothing_out(self, make_cell: MakeCell, project: Path) -> None:
        """First the link is applied, then a directory in its place, with what was to land behind the link."""
        vault = project.parent / "vault"
        cell = await make_cell(by_copy(project))
        before = fingerprint(vault, times=False)
        await cell.sh(f"cd {TARGET} && rm -r sub && ln -s {vault} sub && rm out && mkdir out && echo x >out/planted")
        assert (await cell.backend.apply(cell.id)).complete
        assert (project / "sub").readlink() == vault
        assert not (project / "out").is_symlink()
        assert (project / "out" / "planted").read_text() == "x\n"
        await cell.sh(f"cd {TARGET} && rm sub && mkdir sub && echo x >sub/planted && echo x >sub/secret")
        assert (await cell.backend.apply(cell.id)).complete
        assert (project / "sub" / "secret").read_text() == "x\n"
        assert fingerprint(vault, times=False) == before

    async def test_cow_a_link_that_the_host_puts_there_is_not_followed(
        self, make_cell: MakeCell, project: Path
    ) -> None:
        vault = project.parent / "vault"
        cell = await make_cell(by_copy(project))
        await cell.sh(f"cd {TARGET} && echo x >sub/secret && echo x >sub/planted")
        (project / "sub").rename(project.parent / "moved")
        (project / "sub").symlink_to(vault)
        before = fingerprint(vault), fingerprint(project.parent / "moved")
        outcome = await cell.backend.apply(cell.id)
        assert outcome.applied == ()
        assert "sub" in {refusal.path for refusal in outcome.conflicts}
        assert (fingerprint(vault), fingerprint(project.parent / "moved")) == before

    async def test_cow_what_git_would_run_is_not_applied_unless_named(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project))
        names = ["config", "hooks/pre-commit", "info/attributes", "worktrees/w/config.worktree", "modules/m/config"]
        plant = "".join(f"mkdir -p $(dirname {name}); echo run >{name}; " for name in names)
        await cell.sh(f"mkdir {TARGET}/.git && cd {TARGET}/.git && echo ref >HEAD && {plant}:")
        outcome = await cell.backend.apply(cell.id)
        assert {refusal.path for refusal in outcome.left} == {f".git/{name}" for name in names}
        assert (project / ".git" / "HEAD").read_text() == "ref\n"
        assert not [name for name in names if (project / ".git" / name).exists()]
        # the directory that they lie in does not name them
        assert {refusal.path for refusal in (await cell.backend.apply(cell.id, [".git"])).left} == {
            f".git/{name}" for name in names
        }
        assert (await cell.backend.apply(cell.id, [".git/hooks/pre-commit"])).complete
        assert (project / ".git" / "hooks" / "pre-commit").read_text() == "run\n"

    async def test_cow_nothing_special_arrives(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project), set_id=True)
        made = await cell.sh(
            f"cd {TARGET} && mkfifo pipe && echo x >set && chmod 6755 set && echo x >'.alcove-apply-0123456789abcdef'"
            f" && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; ls -A"
        )
        assert {"pipe", "sock", "set"} <= set(made.stdout.split()), made
        outcome = await cell.backend.apply(cell.id)
        assert {refusal.path for refusal in outcome.left} == {"pipe", "sock", ".alcove-apply-0123456789abcdef"}
        assert (project / "set").stat().st_mode & 0o7777 == 0o755
        assert not {"pipe", "sock", ".alcove-apply-0123456789abcdef"} & {path.name for path in project.iterdir()}

    async def test_cow_what_the_host_changed_is_not_written_over(self, make_cell: MakeCell, project: Path) -> None:
        cell = await make_cell(by_copy(project))
        await cell.sh(f"cd {TARGET} && echo guest >data && echo guest >sub/inner")
        assert len(await cell.backend.changes(cell.id)) == 2
        (project / "data").write_text("by the host")
        outcome = await cell.backend.apply(cell.id)
        assert [refusal.path for refusal in outcome.conflicts] == ["data"]
        assert (project / "data").read_text() == "by the host"
        assert (project / "sub" / "inner").read_text() == "inner\n"
        assert (await cell.backend.apply(cell.id, ["sub"])).complete
        assert (project / "sub" / "inner").read_text() == "guest\n"
