"""`apt-get install` in a session with an owned root: the package works inside, the host never hears of it."""

import os
from pathlib import Path

import pytest

from alcove import ExecRequest, LocalSandbox, LocalSandboxConfig, SandboxSpec, Unrestricted
from alcove.testing import no_leaks

PACKAGE = "hello"
PROGRAM = "/usr/bin/hello"


def host_state() -> dict[str, object]:
    """What an install would change on the host."""
    status = Path("/var/lib/dpkg/status").stat()
    return {
        "program": os.path.exists(PROGRAM),
        "dpkg": (status.st_mtime_ns, status.st_size, status.st_ino),
        "etc": os.stat("/etc").st_mtime_ns,
        "usr/bin": os.stat("/usr/bin").st_mtime_ns,
        "lists": sorted(os.listdir("/var/lib/apt/lists")),
    }


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.timeout(300)
async def test_apt_get_install_in_an_owned_root(tmp_path: Path) -> None:
    before = host_state()
    assert not before["program"], f"{PACKAGE} is installed on this host; this test needs one that is not"
    store = tmp_path / "store"
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), rootfs="owned"))
    async with no_leaks(store):
        session = await backend.provision(SandboxSpec(network_policy=Unrestricted(), set_id=True))
        install = f"apt-get update -qq && apt-get install -y --no-install-recommends {PACKAGE}"
        env = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
        result = await backend.exec(session.id, ExecRequest("sh", ["-c", install], env=env, timeout=240))
        assert result.success, result.stdout[-2000:] + result.stderr[-2000:]
        assert (await backend.exec(session.id, ExecRequest("hello"))).stdout == "Hello, world!\n"
        assert host_state() == before
        fork = await backend.fork(session.id)
        await backend.terminate(session.id)
        assert (await backend.exec(fork.id, ExecRequest("hello"))).stdout == "Hello, world!\n"
        removed = await backend.exec(fork.id, ExecRequest("apt-get", ["purge", "-y", "-qq", PACKAGE], timeout=120))
        assert removed.success, removed.stdout[-2000:] + removed.stderr[-2000:]
        assert (await backend.exec(fork.id, ExecRequest("hello"))).exit_code == 127
        assert host_state() == before
        await backend.terminate(fork.id)
    await backend.aclose()
    assert host_state() == before
