"""Who a command runs as: looked up inside the cell, bounded, never the host's root, never a fallback to it."""

import time

import pytest

from alcove.contract import FilesystemAccess, FilesystemMount, InvalidRequest, Limited, SandboxSpec
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, live, mark

IDS = "import os; print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))"


@pytest.mark.user
async def test_the_default_is_the_sessions_root(cell: Cell) -> None:
    assert await cell.out("id -u; id -g") == "0\n0\n"
    for user in ("root", "0"):
        assert (await cell.sh("id -u", user=user)).stdout == "0\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("agent", 1000, 1000, [1000]),
        ("1000", 1000, 1000, [1000]),
        ("nobody", 65534, 65534, [65534]),
        ("daemon", 1, 1, [1]),
        ("4242", 4242, 4242, [4242]),
        ("65535", 65535, 65535, [65535]),
    ],
)
async def test_by_name_and_by_number(cell: Cell, user: str, uid: int, gid: int, groups: list[int]) -> None:
    result = await cell.python(IDS, user=user)
    assert result.stdout == f"{(uid,) * 3} {(gid,) * 3} {groups}\n"


@pytest.mark.root
async def test_the_host_sees_an_id_of_the_sessions_range(cell: Cell) -> None:
    number = mark()
    base = outside.id_map(cell.native("spawner"), "uid")[0][1]
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number, user="agent")
    found = outside.status(await outside.one(number))
    assert found["Uid"].split() == [str(base + 1000)] * 4
    assert found["Gid"].split() == [str(base + 1000)] * 4
    assert found["Groups"].split() == [str(base + 1000)]


@pytest.mark.root
async def test_another_user_has_no_capability_and_no_way_back(cell: Cell) -> None:
    script = """
import os
status = open("/proc/self/status").read()
print([line.split()[1] for line in status.splitlines() if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))])
for attempt in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0)):
    try:
        attempt()
        print("became")
    except PermissionError:
        pass
"""
    result = await cell.python(script, user="agent")
    assert result.stdout == f"{['0' * 16] * 4}\n"
    assert (await cell.sh("su -c id root || sudo -n id || true", user="agent")).stdout == ""


@pytest.mark.root
async def test_the_environment_names_the_user(cell: Cell) -> None:
    assert (await cell.sh("echo $USER $HOME; id -un", user="agent")).stdout == "agent /workspace\nagent\n"
    assert (await cell.sh("echo $USER", user="agent", env={"USER": "mine"})).stdout == "mine\n"


@pytest.mark.root
async def test_the_sessions_own_user(backend: LocalSandbox) -> None:
    async with live(backend, SandboxSpec(user="agent", network_policy=Limited())) as cell:
        assert (await cell.exec("id", ["-un"])).stdout == "agent\n"
        assert (await cell.exec("id", ["-un"], user="root")).stdout == "root\n"
        assert (await cell.sh("echo made > file; cat file; echo out > /mnt/session/outputs/file")).stdout == "made\n"


@pytest.mark.root
async def test_a_user_can_open_its_streams_again(cell: Cell) -> None:
    result = await cell.sh("cat /dev/stdin > /dev/stdout; echo e > /dev/stderr", stdin="given", user="agent")
    assert (result.stdout, result.stderr) == ("given", "e\n")


@pytest.mark.root
async def test_a_users_command_is_killed_like_any(cell: Cell) -> None:
    number = mark()
    result = await cell.sh('setsid sleep "$1" & exec sleep "$1"', number, user="agent", timeout=0.4)
    assert result.timed_out
    assert outside.bearing(number) == []


@pytest.mark.root
@pytest.mark.parametrize("user", ["nobody-there", "agent2", "-"])
async def test_an_unknown_name_is_refused(cell: Cell, user: str) -> None:
    with pytest.raises(InvalidRequest, match=user):
        await cell.exec("id", user=user)


@pytest.mark.user
@pytest.mark.parametrize("user", ["", " ", "0:0", "+1", "-1", "root:root", "a b", "4294967295", "99999999999", "a\nb"])
async def test_what_is_no_user_is_refused(cell: Cell, user: str) -> None:
    with pytest.raises(InvalidRequest):
        await cell.exec("id", user=user)


@pytest.mark.root
@pytest.mark.parametrize("user", ["65536", "100000", "4294967294"])
async def test_a_uid_beyond_the_range_is_refused(cell: Cell, user: str) -> None:
    with pytest.raises(InvalidRequest, match="65535"):
        await cell.exec("id", user=user)


@pytest.mark.user(only=True)
@pytest.mark.parametrize("user", ["agent", "1000", "nobody"])
async def test_a_plain_user_has_no_other_users_and_says_so(backend: LocalSandbox, cell: Cell, user: str) -> None:
    with pytest.raises(InvalidRequest, match=r"needs a range of uids.*root"):
        await cell.exec("id", user=user)
    with pytest.raises(InvalidRequest, match="needs a range of uids"):
        await backend.provision(SandboxSpec(user=user))


# A passwd of the guest's making: a mount of the session's lies over /etc

PLANTED = {
    "fifo": "mkfifo passwd",
    "a gigabyte": "truncate -s 1G passwd",
    "garbage": "head -c 100000 /dev/urandom > passwd",
    "empty": ": > passwd",
    "directory": "mkdir passwd",
    "device": "ln -s /dev/zero passwd",
    "loop": "ln -s passwd passwd",
    "long line": '/usr/bin/python3 -c \'print("agentx" + ":" * 900000)\' > passwd',
    "unreadable": "mkfifo group; echo 'other:x:1:1::/:/bin/sh' > passwd",
}
OWN_ETC = SandboxSpec(network_policy=Limited(), mounts=[FilesystemMount("", "/etc", FilesystemAccess.READ_WRITE)])


@pytest.mark.root
@pytest.mark.security
@pytest.mark.parametrize("kind", PLANTED)
async def test_a_planted_passwd_neither_holds_nor_fools(backend: LocalSandbox, kind: str) -> None:
    async with live(backend, OWN_ETC) as cell:
        await cell.out(PLANTED[kind], cwd="/etc")
        before = time.monotonic()
        with pytest.raises(InvalidRequest, match="agent"):
            await cell.exec("id", user="agent", timeout=20)
        assert (await cell.exec("id", ["-u"], user="1000", timeout=20)).stdout == "1000\n"
        assert time.monotonic() - before < 2 * outside.SLACK


@pytest.mark.root
@pytest.mark.security
@pytest.mark.parametrize(
    "ids", ["-1:-1", "4294967296:0", "0x0:0", ":", "65536:65536", "0 :0", "99999999999999999999:0"]
)
async def test_a_planted_number_never_becomes_roots(backend: LocalSandbox, ids: str) -> None:
    async with live(backend, OWN_ETC) as cell:
        await cell.out('echo "agent:x:$1::/:/bin/sh" > passwd', ids, cwd="/etc")
        with pytest.raises(InvalidRequest, match="agent"):
            await cell.exec("id", user="agent")


@pytest.mark.root
async def test_the_sessions_own_passwd_is_the_one_that_counts(backend: LocalSandbox) -> None:
    """The positive control of the two above: what the session has there decides, not what the host has."""
    async with live(backend, OWN_ETC) as cell:
        await cell.out("echo 'some:x:777:888::/:/bin/sh' > passwd; echo 'more:x:999:a,some' > group", cwd="/etc")
        assert (await cell.python(IDS, user="some")).stdout == "(777, 777, 777) (888, 888, 888) [888, 999]\n"
