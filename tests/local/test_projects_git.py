"""Real git in a directory that a session has by copy-on-write, and on the host after its work was applied."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from alcove.local.backend import LocalSandbox
from tests.conftest import PlainUser
from tests.local.cell import Cell, live
from tests.local.projects import give_to, mounted, spec, tree

pytestmark = pytest.mark.user

GUEST = """
set -e
git config --global user.name guest; git config --global user.email guest@example.org
git config --global init.defaultBranch main
cd /project
"""


def on_host(project: Path, *commands: str) -> str:
    """Run git on the host, where nobody's configuration counts."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    here |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    options = ["safe.directory=*", "user.name=person", "user.email=person@example.org", "init.defaultBranch=main"]
    git = ["git", *(word for option in options for word in ("-c", option))]
    said = ""
    for command in commands:
        argv = [*git, *command.split()]
        done = subprocess.run(argv, cwd=project, env=here, capture_output=True, check=False, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return said


async def test_git_works_inside(box: Cell, project: Path) -> None:
    before = tree(project)
    await box.out(
        f"""{GUEST}
        git init -q; git add .; git commit -qm first
        git checkout -qb work; echo more >>edited; git mv sub/moved sub/there; git commit -qam second
        git checkout -q main; test ! -e sub/there; git merge -q work
        git worktree add -q /workspace/tree work~1; git worktree add -q inner -b inner
        echo w >inner/w; git -C inner add w; git -C inner commit -qm third
        git worktree remove inner; git gc -q; git fsck --strict
        git status --porcelain >/workspace/status
        """
    )
    assert await box.out("cat /workspace/status; cd /project; git log --format=%s inner") == "third\nsecond\nfirst\n"
    assert await box.out("cat /workspace/tree/edited") == "one\ntwo\n"
    assert tree(project) == before


async def test_a_repository_of_the_hosts_goes_on_inside_and_comes_back(
    backend: LocalSandbox, project: Path, plain_user: PlainUser
) -> None:
    await asyncio.to_thread(on_host, project, "init -q", "add .", "commit -qm first")
    give_to(project, plain_user)
    async with live(backend, spec(mounted(project))) as cell:
        await cell.out(f"{GUEST} git checkout -qb fix; echo fixed >>edited; git commit -qam fixed; git gc -q")
        outcome = await backend.apply(cell.id)
    assert outcome.conflicts == ()
    assert outcome.left == ()
    assert not_of(plain_user.uid, project) == []
    said = await asyncio.to_thread(on_host, project, "fsck --strict", "log --format=%s", "status --porcelain -b")
    assert said == "fixed\nfirst\n## fix\n"


def not_of(owner: int, top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.lstat().st_uid != owner]
