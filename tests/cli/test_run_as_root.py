"""What only root's sessions have: a limit of memory on every host, and other users."""

import pytest

from tests.cli.cli import Cli

pytestmark = pytest.mark.root


def test_running_out_of_memory_is_told(alcove: Cli) -> None:
    done = alcove("run", "--memory", "64M", "--", "python3", "-c", "b'x' * (1 << 30)")
    assert done.returncode == 137
    assert done.stderr.endswith(b"alcove: the command ran out of the session's memory (--memory)\n")


def test_another_user(alcove: Cli) -> None:
    assert alcove.out("run", "--user", "1000", "--", "id", "-u").strip() == "1000"
    assert alcove.out("exec", alcove.create("--user", "nobody"), "--", "id", "-un").strip() == "nobody"


def test_a_system_of_its_own(alcove: Cli) -> None:
    script = "echo changed > /etc/issue.alcove && cat /etc/issue.alcove"
    assert alcove.out("run", "--owned", "--", "sh", "-c", script) == "changed\n"
    assert alcove("run", "--", "sh", "-c", script).returncode != 0


def test_a_disk_of_its_own(alcove: Cli) -> None:
    done = alcove("run", "--disk", "16M", "--", "sh", "-c", "head -c 1G /dev/zero >big")
    assert done.returncode != 0
    assert b"No space left on device" in done.stderr
    alcove.create("--disk", "16M", "--id", "small")
    (session,) = alcove.json("df")["sessions"]
    assert session["limit"] == 16 << 20
    assert [line.split()[3:5] for line in alcove.out("df").splitlines() if line.startswith("small")] == [
        ["16.0", "MiB"]
    ]
