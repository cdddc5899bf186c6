"""No network means none; the host's means the host's, without its abstract sockets; and the way between the two."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from alcove.contract import (
    InvalidRequest,
    LifecycleError,
    Limited,
    NetworkPolicyError,
    SandboxSpec,
    SandboxState,
    Unrestricted,
    to_json,
)
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = pytest.mark.user

CONNECT = """
import errno, json, socket, sys
kind, address = json.loads(sys.argv[1])
family = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[kind]
peer = ("\\0" + address) if kind == "unix" else tuple(address)
try:
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(peer)
    print("connected")
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"""


@contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    """Yield a listener of the host's on its loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server, server.getsockname()[1]


def accepted(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


async def connect(cell: Cell, kind: str, address: object) -> str:
    return (await cell.python(CONNECT, json.dumps([kind, address]))).stdout.strip()


async def test_no_network_is_a_loopback_and_nothing_else(cell: Cell) -> None:
    assert cell.session.metadata["network"] == "none"
    lines = (await cell.out("cat /proc/net/dev")).splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert await cell.out("cat /proc/net/route") == await cell.out("head -1 /proc/net/route")


async def test_no_network_reaches_no_listener_of_the_hosts(cell: Cell) -> None:
    with listening() as (server, port):
        assert await connect(cell, "tcp", ["127.0.0.1", port]) == "ECONNREFUSED"
        assert not accepted(server)
        socket.create_connection(("127.0.0.1", port)).close()  # the positive control
        assert accepted(server)
    assert await connect(cell, "tcp", ["192.0.2.1", 80]) == "ENETUNREACH"
    assert await connect(cell, "tcp6", ["2001:db8::1", 80]) in {"ENETUNREACH", "EADDRNOTAVAIL"}


async def test_the_loopback_works_and_low_ports_too(cell: Cell) -> None:
    program = """
import socket
for port in (80, 443, 1, 8080):
    server = socket.create_server(("127.0.0.1", port))
    client = socket.create_connection(("127.0.0.1", port))
    server.accept()[0].sendall(b"up")
    assert client.recv(2) == b"up"
server = socket.create_server(("::1", 80), family=socket.AF_INET6)
print("served")
"""
    assert (await cell.python(program)).stdout == "served\n"


async def test_the_hosts_network_is_shared_when_asked_for(backend: LocalSandbox) -> None:
    async with live(backend, SandboxSpec(network_policy=Unrestricted())) as cell:
        assert cell.session.metadata["network"] == "host"
        with listening() as (server, port):
            assert await connect(cell, "tcp", ["127.0.0.1", port]) == "connected"
            assert accepted(server)
        assert os.readlink(f"/proc/{await _sleeping(cell)}/ns/net") == os.readlink("/proc/self/ns/net")


async def test_abstract_sockets_of_the_host_are_fenced(backend: LocalSandbox) -> None:
    name = f"alcove-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        server.setblocking(False)
        for policy, refusal in ((Unrestricted(), "EPERM"), (Limited(), "ECONNREFUSED")):
            async with live(backend, SandboxSpec(network_policy=policy)) as cell:
                assert await connect(cell, "unix", name) == refusal
                assert not accepted(server)
        with socket.socket(socket.AF_UNIX) as client:  # the positive control
            client.connect(f"\0{name}")
        assert accepted(server)


async def test_abstract_sockets_of_a_session_work_across_its_execs(backend: LocalSandbox) -> None:
    async with live(backend, SandboxSpec(network_policy=Unrestricted())) as cell:
        name = f"alcove-test-{secrets.token_hex(8)}"
        server = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen(); s.accept()"
        task = asyncio.ensure_future(cell.python(server))
        while await connect(cell, "unix", name) != "connected":
            assert not task.done()
        assert (await task).success


async def test_a_list_that_allows_too_much_is_refused_and_changes_nothing(backend: LocalSandbox, cell: Cell) -> None:
    with pytest.raises(InvalidRequest, match=r"\*\.com"):
        await backend.provision(SandboxSpec(network_policy=Limited(["*.com"])))
    warden = cell.native("warden")
    with pytest.raises(InvalidRequest, match=r"\*\.com"):
        await backend.apply_network_policy(cell.id, Limited(["example.com", "*.com"]))
    assert cell.native("warden") == warden
    assert backend.session(cell.id).metadata["network"] == "none"
    assert backend.capabilities().network_policy is True


async def test_the_policy_changes_over_the_same_files(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("echo kept > note; echo tmp > /tmp/note")
    with listening() as (server, port):
        for policy, told, answer in (
            (Unrestricted(), "host", "connected"),
            (Limited(), "none", "ECONNREFUSED"),
            (Unrestricted(), "host", "connected"),
        ):
            session = await backend.apply_network_policy(cell.id, policy)
            assert session.metadata["network"] == told
            assert ("netns" in session.metadata["isolation"].split(",")) == (told == "none")
            assert await connect(cell, "tcp", ["127.0.0.1", port]) == answer
            assert accepted(server) == (answer == "connected")
            assert await cell.out("cat note /tmp/note") == "kept\ntmp\n"


async def test_the_same_policy_again_changes_nothing(backend: LocalSandbox, cell: Cell) -> None:
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    pid = await outside.one(number)
    warden = cell.native("warden")
    assert (await backend.apply_network_policy(cell.id, Limited())).state in {
        SandboxState.RUNNING,
        SandboxState.PROVISIONED,
    }
    assert (cell.native("warden"), outside.is_there(pid)) == (warden, True)


async def test_a_running_process_keeps_the_policy(backend: LocalSandbox, cell: Cell) -> None:
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    pid = await outside.one(number)
    with pytest.raises(NetworkPolicyError, match="1 process"):
        await backend.apply_network_policy(cell.id, Unrestricted())
    assert outside.is_there(pid)
    assert backend.session(cell.id).metadata["network"] == "none"
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    os.kill(pid, 9)
    await outside.until(lambda: not outside.is_there(pid))
    assert (await backend.apply_network_policy(cell.id, Unrestricted())).metadata["network"] == "host"


async def test_two_backends_agree_on_the_policy(backend: LocalSandbox, cell: Cell) -> None:
    other = LocalSandbox(backend.config)
    try:
        assert (await Cell(other, cell.session).exec("true")).success
        await backend.apply_network_policy(cell.id, Unrestricted())
        assert other.session(cell.id).metadata["network"] == "host"
        await other.apply_network_policy(cell.id, Limited())
        assert backend.session(cell.id).metadata["network"] == "none"
        await backend.apply_network_policy(cell.id, Unrestricted())
        assert backend.session(cell.id).metadata["network"] == "host"
    finally:
        await other.aclose()


async def _sleeping(cell: Cell) -> int:
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    return await outside.one(number)


async def test_a_failed_switch_leaves_what_others_said_since(
    backend: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(backend) as cell:
        theirs = replace(backend.fork_spec(cell.id), network_policy=Limited(["theirs.test"]))

        async def fail(_: object) -> None:
            backend._store.save(cell.id, record=backend._store.live(cell.id).record, spec=to_json(theirs))
            raise LifecycleError("it could not be made again")

        with monkeypatch.context() as patch:
            patch.setattr(backend._sessions, "restart", fail)
            with pytest.raises(NetworkPolicyError, match="the old policy stays"):
                await backend.apply_network_policy(cell.id, Unrestricted())
        assert backend.fork_spec(cell.id).network_policy == theirs.network_policy
