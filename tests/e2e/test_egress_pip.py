"""`pip install` of a real package through an allow-list that has the machine's own index, and nothing else."""

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alcove import ExecRequest, Limited, LocalSandbox, LocalSandboxConfig, SandboxSpec
from alcove.egress import packages
from alcove.egress.audit import Record, read
from alcove.egress.config import EgressConfig
from alcove.testing import no_leaks
from tests.keeping import end

PACKAGE = "six"
INSTALL = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--target", "site"]


def addresses(entries: list[str]) -> tuple[str, ...]:
    """Where the index is: a mirror may well have an address that names are not let resolve to."""
    found: set[str] = set()
    for entry in entries:
        host, _, port = entry.partition(":")
        found |= {str(answer[4][0]) for answer in socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)}
    return tuple(str(ipaddress.ip_network(address)) for address in sorted(found))


def environment() -> dict[str, str]:
    """An empty configuration of pip's but for the index and the certificates that this machine is set up with."""
    wanted = {"PIP_CONFIG_FILE": os.devnull}
    for key, variable in (("index-url", "PIP_INDEX_URL"), ("cert", "PIP_CERT")):
        asked = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
        configured = subprocess.run(asked, capture_output=True, check=False, text=True, timeout=30).stdout.strip()
        if value := os.environ.get(variable) or configured:
            wanted[variable] = value
    return wanted


@pytest.mark.e2e
@pytest.mark.user
@pytest.mark.timeout(180)
async def test_pip_installs_from_the_configured_index_and_reaches_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [found.entry for found in packages.hosts(["pip"])]
    config = EgressConfig(allow_addresses=addresses(entries))
    store = tmp_path / "store"
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), egress=config))
    async with no_leaks(store):
        session = await backend.provision(SandboxSpec(network_policy=Limited(entries)))
        request = ExecRequest(INSTALL[0], [*INSTALL[1:], PACKAGE], env=environment(), timeout=150)
        result = await backend.exec(session.id, request)
        assert result.success, result.stdout[-2000:] + result.stderr[-2000:]
        use = ExecRequest("python3", ["-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"], env={"PYTHONPATH": "site"})
        assert (await backend.exec(session.id, use)).stdout.startswith("/workspace/site/")
        denied = await backend.exec(session.id, ExecRequest("getent", ["hosts", "index.invalid"]))
        assert denied.exit_code != 0
        log = next(store.glob("sessions/*/egress.log"))
        records = list(read(log))
        await backend.terminate(session.id)
        end(store)
    await backend.aclose()
    relayed = [record for record in records if record.kind == "connect" and record.allowed]
    assert {record.name for record in relayed} <= {entry.partition(":")[0] for entry in entries}
    assert not [record for record in records if record.kind == "connect" and not record.allowed]
    assert refused(records) == {"index.invalid"}
    received = sum(record.received for record in relayed)
    assert received > 10_000  # the index page and the wheel
    sent = sum(record.sent for record in relayed)
    with capsys.disabled():
        print(f"\npip install through an allow-list: {len(relayed)} connections, {sent} bytes out, {received} in")


def refused(records: list[Record]) -> set[str]:
    """The names that were asked for and are on no list."""
    return {record.name for record in records if record.kind == "dns" and not record.allowed}
