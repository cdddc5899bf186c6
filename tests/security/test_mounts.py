"""FS06 to FS09: the mounts that hide and protect, and whether they can be taken away or leak."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.local import outside
from tests.security.cells import Cell, has_own, maps_no_host_root, report
from tests.security.conftest import MakeCell

pytestmark = [pytest.mark.security, pytest.mark.user]

#: Of the host, or of no use inside: what is there on this kernel must be covered.
MASKED = (
    "kcore kallsyms keys key-users timer_list sched_debug latency_stats acpi scsi irq interrupts bus fs kmsg "
    "sysrq-trigger"
).split()
SYSCTLS = [
    "kernel/core_pattern",
    "kernel/hostname",
    "kernel/modprobe",
    "kernel/panic",
    "vm/drop_caches",
    "vm/swappiness",
]
NULL = os.makedev(1, 3)


def is_covered(path: Path) -> bool:
    """Tell, through the process's own root, whether a file is the null device or an empty directory."""
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return list(path.iterdir()) == []
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == NULL


def host_sysctls() -> dict[str, str]:
    found = {}
    for name in [*SYSCTLS, "kernel/pid_max", "kernel/sysrq", "fs/file-max", "net/core/somaxconn"]:
        path = Path("/proc/sys", name)
        if os.access(path, os.R_OK):
            found[name] = path.read_text()
    return found


class TestFs06:
    async def test_fs06_what_leaks_the_host_is_covered(self, cell: Cell) -> None:
        proc = Path(f"/proc/{await cell.resident()}/root/proc")
        there = [name for name in MASKED if Path("/proc", name).exists()]
        assert {"kallsyms", "keys", "interrupts"} <= set(there)
        assert [name for name in there if not is_covered(proc / name)] == []
        assert not is_covered(proc / "version")

    async def test_fs06_sysctls_are_not_written(self, cell: Cell) -> None:
        pid = await cell.resident()
        maps_no_host_root(pid)
        has_own(pid, "mnt", "pid")
        before = host_sysctls()
        writes = 'for path; do (echo 1 >"$path") 2>/dev/null && echo "wrote $path"; done; :'
        paths = [
            f"{root}/{name}" for name in SYSCTLS for root in ("/proc/sys", "/proc/self/../sys", "/proc/1/root/proc/sys")
        ]
        said = await cell.sh(writes, "/workspace/control", *paths)
        assert said.stdout == "wrote /workspace/control\n"
        assert host_sysctls() == before

    async def test_fs06_sysctls_are_read_only_even_those_of_the_sessions_own_namespaces(
        self, make_cell: MakeCell
    ) -> None:
        pid = await (await make_cell()).resident()
        mounts = outside.mounts(pid)
        assert {"ro", "nosuid", "nodev", "noexec"} <= mounts["/proc/sys"]
        assert "rw" in mounts["/proc"]

    async def test_fs06_there_is_no_sysfs(self, make_cell: MakeCell) -> None:
        pid = await (await make_cell()).resident()
        lines = outside.read(pid, "mountinfo").splitlines()
        kinds = {line.partition(" - ")[2].split(" ")[0] for line in lines}
        assert not kinds & {
            "sysfs",
            "cgroup",
            "cgroup2",
            "debugfs",
            "tracefs",
            "securityfs",
            "bpf",
            "configfs",
            "fusectl",
        }
        names = {path.name for path in Path(f"/proc/{pid}/root/sys").rglob("*") if path.is_file()}
        assert names == {"online", "possible", "present"}

    async def test_fs06_every_mount_is_nosuid_and_read_only_below(self, make_cell: MakeCell) -> None:
        pid = await (await make_cell()).resident()
        mounts = outside.mounts(pid)
        assert [place for place, options in mounts.items() if "nosuid" not in options] == []
        devices = {place for place, options in mounts.items() if "nodev" not in options}
        covers = {f"/proc/{name}" for name in MASKED}
        nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "pts")}
        assert devices <= nodes | covers | {"/dev"}
        writable = {place for place, options in mounts.items() if "rw" in options}
        own = {"/workspace", "/tmp", "/var/tmp", "/mnt/session/outputs", "/dev/shm", "/run", "/proc", "/dev/pts"}
        assert writable == own


class TestFs07:
    async def test_fs07_nothing_is_mounted_changed_or_unmounted(self, cell: Cell) -> None:
        pid = await cell.resident()
        has_own(pid, "mnt", "user")
        maps_no_host_root(pid)
        before, here = outside.read(pid, "mountinfo"), outside.read(os.getpid(), "mountinfo")
        stayed = await cell.stay("mounts", "/workspace")
        assert outside.read(pid, "mountinfo") == before
        assert outside.read(stayed.pid, "mountinfo") == before
        assert outside.read(os.getpid(), "mountinfo") == here
        assert outside.namespaces(stayed.pid) == outside.namespaces(pid)
        assert "ok" not in stayed.said.values(), stayed.said

    def test_fs07_the_same_calls_mount_where_they_may(self, corpus: Path, tmp_path: Path) -> None:
        """In a user namespace of the harness's own, away from the host."""
        argv = ["unshare", "--user", "--map-root-user", "--mount", str(corpus / "mounts"), str(tmp_path)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as control:
            try:
                assert control.stdout is not None
                said = report("".join(iter(lambda: _line(control), "")))
                theirs, ours = outside.namespaces(control.pid)["mnt"], outside.namespaces(os.getpid())["mnt"]
            finally:
                control.kill()
        assert {said[name] for name in ("tmpfs", "bind", "fsopen", "open_tree", "move_mount", "unshare-mount")} == {
            "ok"
        }
        assert theirs != ours


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    return "" if line.startswith("stays") else line


class TestFs08:
    async def test_fs08_no_namespace_of_ones_own(self, cell: Cell) -> None:
        pid = await cell.resident()
        has_own(pid, "mnt", "user")
        stayed = await cell.stay("nesting")
        assert outside.namespaces(stayed.pid) == outside.namespaces(pid)
        assert "ok" not in stayed.said.values(), stayed.said
        assert len(stayed.said) >= 23

    def test_fs08_the_same_calls_nest_where_they_may(self, corpus: Path) -> None:
        argv = ["unshare", "--user", "--map-root-user", str(corpus / "nesting")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as control:
            try:
                said = report("".join(iter(lambda: _line(control), "")))
                inside, here = outside.namespaces(control.pid), outside.namespaces(os.getpid())
            finally:
                control.kill()
        # ENOMEM: children of one whose own first child, the PID 1 of its new namespace, has ended
        assert {word for name, word in said.items() if not name.endswith("time")} <= {"ok", "ENOMEM"}
        assert said["clone-user"] == said["unshare-mount"] == said["clone3-user"] == "ok"
        assert all(inside[name] != here[name] for name in inside if name != "pid")

    async def test_fs08_no_budget_for_user_namespaces_either(self, make_cell: MakeCell) -> None:
        """What refuses them even where the filter did not: the guest's own word, which it has no reason to bend."""
        cell = await make_cell()
        budget = await cell.run("cat", "/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_mnt_namespaces")
        assert budget.stdout.split()[0] == "0"
        assert Path("/proc/sys/user/max_user_namespaces").read_text().strip() != "0"


class TestFs09:
    async def test_fs09_no_mount_is_a_peer_or_a_slave_of_the_hosts(self, cell: Cell) -> None:
        lines = outside.read(await cell.resident(), "mountinfo").splitlines()
        tied = [line for line in lines if " shared:" in line or " master:" in line]
        assert lines
        assert tied == []
