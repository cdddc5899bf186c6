"""PK: what a guest can do to processes, capabilities and groups, its own and those of others."""
# ruff: noqa: ASYNC230, ASYNC240 - a test's own loop may wait for the host

import asyncio
import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.contract import Limited, SandboxError, Unrestricted
from alcove.local import LocalSandbox
from alcove.local.cell import plan
from tests.local import outside
from tests.security.cells import Cell, has_own, maps_no_host_root
from tests.security.conftest import MakeCell

pytestmark = [pytest.mark.security, pytest.mark.user]

AS_ROOT = os.geteuid() == 0
OF_IDS = (":limits", ":priority")


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process of the harness's on the host, of the same user as the backend."""
    with subprocess.Popen(["sleep", "100000"]) as process:
        yield process
        process.kill()


class TestPk07:
    async def test_pk07_no_process_of_ours_is_looked_into(self, cell: Cell) -> None:
        """Init and the monitors stand in the guest's own process tree, and are not its to touch."""
        own = await cell.resident()
        guest = outside.status(own)["NSpid"].split()[-1]
        stayed = await cell.stay("neighbours", guest, env={"control": "1"})
        got = {name for name, word in stayed.said.items() if word == "ok"}
        assert {"control:environ", "control:maps", "control:fd", "control:exe"} <= got
        # prlimit(2) and setpriority(2) ask for the same ids and no more: what a guest spoils by them is its own session
        ours = {name for name in got if not name.startswith(("control:", "seen:")) and not name.endswith(OF_IDS)}
        mine = _of_other_guests(cell, ours)
        assert ours - mine == set(), ours
        assert int(next(name for name in got if name.startswith("seen:")).partition(":")[2]) >= 2
        for pid in cell.members():
            assert outside.status(pid)["TracerPid"] == "0"
            assert outside.read(pid, "oom_score_adj").strip() != "-1000"

    async def test_pk07_the_host_is_not_visible(self, cell: Cell, bystander: "subprocess.Popen[bytes]") -> None:
        resident = await cell.resident()
        has_own(resident, "pid")
        inside = {path.name for path in Path(f"/proc/{resident}/root/proc").iterdir() if path.name.isdigit()}
        spaces = {outside.status(pid)["NSpid"].split()[-1] for pid in cell.members() if "NSpid" in outside.status(pid)}
        assert inside <= spaces | {"1"}
        listed = (await cell.sh("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")).stdout
        assert "sleep" in listed
        assert str(bystander.pid) not in inside or len(inside) > 1000
        assert "alcove-warden" not in listed
        assert "alcove-spawner" not in listed


def _of_other_guests(cell: Cell, names: set[str]) -> set[str]:
    """What was got of the session's own shell around a staying program is its own business."""
    guests = {outside.status(pid)["NSpid"].split()[-1] for pid in cell.guests()}
    return {name for name in names if name.partition(":")[0] in guests}


class TestPk12:
    """Every way of starting a process ends in the same credentials, namespaces, filters and limits."""

    NAMES = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters".split()

    async def look(self, cell: Cell, **fields: bool) -> dict[str, object]:
        pid = (await cell.stay_command(["sh", "-c", "echo stays $$; exec sleep 100000"], **fields)).pid
        status = outside.status(pid)
        return {
            **{name: status[name] for name in self.NAMES},
            "namespaces": outside.namespaces(pid),
            "limits": outside.limits(pid),
            "groups": outside.groups(pid),
            "descriptors": sorted(outside.descriptors(pid)),
            "oom": outside.read(pid, "oom_score_adj"),
            "maps": [outside.id_map(pid, kind) for kind in ("uid", "gid")],
            "signals": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt")},
            "mounts": outside.mounts(pid),
        }

    async def test_pk12_capabilities_are_the_small_set_and_cannot_grow(self, cell: Cell) -> None:
        stayed = await cell.stay("capabilities")
        assert "ok" not in stayed.said.values(), stayed.said
        assert len(stayed.said) > 41
        status = outside.status(stayed.pid)
        assert {name: int(status[name], 16) for name in self.NAMES if name.startswith("Cap")} == {
            "CapInh": 0,
            "CapPrm": plan.CAPABILITIES,
            "CapEff": plan.CAPABILITIES,
            "CapBnd": plan.CAPABILITIES,
            "CapAmb": 0,
        }
        forbidden = {"sys_admin": 21, "net_admin": 12, "net_raw": 13, "sys_ptrace": 19, "mknod": 27, "sys_chroot": 18}
        assert not [name for name, number in forbidden.items() if plan.CAPABILITIES >> number & 1]
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    async def test_pk12_the_hosts_root_is_no_id_of_a_session(self, cell: Cell) -> None:
        pid = await cell.resident()
        maps_no_host_root(pid)
        for kind in ("uid", "gid"):
            ((inside, host, count),) = outside.id_map(pid, kind)
            assert inside == 0
            assert (host >= 0x2000_0000, count) == (True, 65_536) if AS_ROOT else (host, count) == (os.getuid(), 1)

    async def test_pk12_two_user_namespaces_lie_between_a_guest_and_the_host(self, cell: Cell) -> None:
        """So that the guest's capabilities are none over the mounts, the network and the warden (ioctl_ns(2))."""
        ns_get_parent = 0xB702
        with open(f"/proc/{await cell.resident()}/ns/user") as guests:
            parent = fcntl.ioctl(guests, ns_get_parent)
        try:
            here, above = os.stat("/proc/self/ns/user"), os.fstat(parent)
            assert above.st_ino != here.st_ino
            grandparent = fcntl.ioctl(parent, ns_get_parent)
            assert os.fstat(grandparent).st_ino == here.st_ino
            os.close(grandparent)
        finally:
            os.close(parent)

    async def test_pk12_namespaces_are_its_own(self, cell: Cell) -> None:
        has_own(await cell.resident(), *outside.NAMESPACES)

    async def test_pk12_every_start_path_ends_alike(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        first = await self.look(cell)
        for _ in range(20):
            await cell.run("true")
        assert await self.look(cell) == first
        debug = await self.look(cell, debug=True)
        assert {
            name: value for name, value in _but_cgroupns(debug).items() if value != _but_cgroupns(first)[name]
        } == {}

    async def test_pk12_a_revived_session_is_confined_like_a_new_one(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        first = await self.look(cell)
        pidfd = os.pidfd_open(cell.processes().warden)
        try:
            os.kill(cell.processes().warden, 9)
            await outside.until(cell.running[0].done)
        finally:
            os.close(pidfd)
        again = await self.look(cell)
        changing = {"namespaces", "mounts"}
        assert {name: value for name, value in again.items() if value != first[name] and name not in changing} == {}
        assert _rules(again["mounts"]) == _rules(first["mounts"])

    async def test_pk12_two_sessions_share_no_ids(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(), await make_cell()
        one, two = await cell.resident(), await other.resident()
        if AS_ROOT:
            assert outside.id_map(one, "uid") != outside.id_map(two, "uid")
        mine, theirs = outside.namespaces(one), outside.namespaces(two)
        assert [kind for kind in mine if mine[kind] == theirs[kind]] == []


def _but_cgroupns(seen: dict[str, object]) -> dict[str, object]:
    """A second spawner makes a cgroup namespace of its own, rooted at the same groups."""
    namespaces = seen["namespaces"]
    assert isinstance(namespaces, dict)
    return {**seen, "namespaces": {kind: name for kind, name in namespaces.items() if kind != "cgroup"}}


def _rules(mounts: object) -> object:
    assert isinstance(mounts, dict)
    return {place: options - {"relatime"} for place, options in mounts.items()}


class TestPk14:
    async def test_pk14_set_id_programs_of_the_host_give_nothing(self, cell: Cell) -> None:
        programs = [path for name in ("su", "mount", "newgrp", "passwd", "chsh") if (path := shutil.which(name))]
        assert any(os.stat(path).st_mode & 0o4000 for path in programs)
        base = outside.status(await cell.resident())
        for path in programs:
            said = await cell.run(path, "--version")
            assert said.exit_code != 126, said
        status = outside.status(await cell.resident())
        assert status["Uid"] == base["Uid"]
        assert status["CapEff"] == base["CapEff"]

    async def test_pk14_a_set_id_file_of_its_own_changes_nothing(self, make_cell: MakeCell) -> None:
        cell = await make_cell(set_id=True)
        script = "cp /mnt/hostile/identity /workspace && chmod 6755 /workspace/identity && exec /workspace/identity"
        assert (await cell.sh("cp /mnt/hostile/identity /workspace/i && chmod 6755 /workspace/i")).success
        assert (cell.directory / "workspace" / "i").stat().st_mode & 0o6000 == 0o6000
        stayed = await cell.stay_command(["sh", "-c", script])
        base = outside.status(await cell.resident())
        status = outside.status(stayed.pid)
        assert [status[name] for name in ("Uid", "Gid", "CapEff", "CapPrm")] == [
            base[name] for name in ("Uid", "Gid", "CapEff", "CapPrm")
        ]


class TestPk16:
    async def test_pk16_groups_are_not_left(self, cell: Cell) -> None:
        before = outside.groups(await cell.resident())
        stayed = await cell.stay("groups")
        assert outside.groups(stayed.pid) == before
        for pid in cell.guests():
            assert outside.groups(pid) == before
        if AS_ROOT:
            assert [path for path in before.values() if path.endswith(f"/alcove-{cell.key}")]

    @pytest.mark.parametrize("name", ["release_agent", "notify_on_release"])
    async def test_pk16_no_release_agent_is_set(self, cell: Cell, name: str) -> None:
        seen = {path: path.read_text() for path in Path("/sys/fs/cgroup").glob(f"*/{name}") if os.access(path, os.R_OK)}
        await cell.stay("groups")
        assert {path: path.read_text() for path in seen} == seen


class TestPk17:
    async def test_pk17_signals_reach_nobody_outside(
        self, make_cell: MakeCell, bystander: "subprocess.Popen[bytes]"
    ) -> None:
        cell, other = await make_cell(), await make_cell()
        neighbour = await other.resident()
        has_own(await cell.resident(), "pid")
        processes = cell.processes()
        there = [bystander.pid, neighbour, processes.warden, processes.init, processes.spawner, os.getpid()]
        pids = [str(pid) for pid in there if pid != 1]
        said = await cell.hostile("signals", *pids)
        assert "sent" in said.stdout
        assert {pid: outside.status(pid).get("State", "gone")[0] for pid in there} == {
            pid: outside.status(pid)["State"][0] for pid in there
        }
        assert all(outside.status(pid)["State"][0] in "SR" for pid in there)
        assert (await other.run("true")).success
        assert (await cell.run("true")).success

    async def test_pk17_killing_everybody_ends_with_a_result_and_the_next_command_works(self, cell: Cell) -> None:
        has_own(await cell.resident(), "pid")
        said = await cell.sh("kill -9 -1; echo survived; exit 7")
        assert said.exit_code in (7, 137), said
        assert (await cell.run("true")).success

    @pytest.mark.parametrize("role", ["init", "spawner", "warden"])
    async def test_pk17_a_dead_shim_is_told_within_a_second(self, make_cell: MakeCell, role: str) -> None:
        cell = await make_cell()
        pid = await cell.resident()
        members = cell.members()
        os.kill(getattr(cell.processes(), role), 9)
        async with asyncio.timeout(1 + outside.SLACK):
            with pytest.raises(SandboxError):
                await asyncio.shield(cell.running[0])
        await outside.until(lambda: not any(outside.is_there(member) for member in [pid, *members]))
        assert (await cell.run("true")).success

    async def test_pk17_a_parents_death_signal_stays_inside(
        self, cell: Cell, bystander: "subprocess.Popen[bytes]"
    ) -> None:
        has_own(await cell.resident(), "pid")
        code = (
            "import ctypes, os, signal; libc = ctypes.CDLL(None)\n"
            "for number in range(1, 65): libc.prctl(1, number)\n"
            "libc.prctl(36, 1); libc.prctl(1, 9)\n"
            "if os.fork() == 0: os.setsid(); os.kill(os.getppid(), 9); os._exit(0)\n"
            "signal.pause()"
        )
        assert (await cell.run("python3", "-c", code)).exit_code == 137
        assert bystander.poll() is None
        assert (await cell.run("true")).success


class TestPk18:
    @pytest.mark.parametrize("policy", ["limited", "unrestricted"])
    async def test_pk18_proc_tells_nothing_of_others(
        self, make_cell: MakeCell, backend: LocalSandbox, policy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token, theirs, own = (secrets.token_hex(16) for _ in range(3))
        monkeypatch.setenv("SUPERVISOR_TOKEN", token)
        network = Unrestricted() if policy == "unrestricted" else Limited(allowed_hosts=[])
        other = await make_cell(network_policy=network, labels={"secret": theirs})
        await other.stay_command(["sh", "-c", "echo stays $$; sleep 100000; :", theirs], env={"SECRET": theirs})
        cell = await make_cell(network_policy=network)
        await cell.stay_command(["sh", "-c", "echo stays $$; exec sleep 100000"], env={"SECRET": own})
        said = await cell.hostile("leaks", output_limit=64 << 20, raw=True)
        assert said.stdout_omitted == 0
        assert own in said.stdout  # the control: a process of the same session is an open book
        for secret in (token, theirs, other.key):
            assert secret not in said.stdout, _around(said.stdout, secret)

    async def test_pk18_what_is_seen_of_the_store_is_the_sessions_own(self, make_cell: MakeCell) -> None:
        """mountinfo names where on its file system a bind comes from: the session's own key, nobody else's."""
        cell, other = await make_cell(), await make_cell()
        said = (await cell.run("cat", "/proc/self/mountinfo")).stdout
        assert cell.key in said
        assert other.key not in said
        assert "upperdir=" not in said

    async def test_pk18_descriptors_are_the_three(self, cell: Cell) -> None:
        assert sorted(outside.descriptors(await cell.resident())) == [0, 1, 2]


def _around(text: str, secret: str) -> str:
    at = text.index(secret)
    return text[max(0, at - 400) : at + 100]
