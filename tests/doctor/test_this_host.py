"""The report against what this host then really does, as root and as a plain user, and in places made worse."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from alcove.contract import (
    ExecRequest,
    Limited,
    ResourceLimits,
    SandboxError,
    SandboxSession,
    SandboxSpec,
    Unrestricted,
)
from alcove.local import LocalSandbox, LocalSandboxConfig
from alcove.local.doctor import Finding, Report, diagnose, gather

TELL = """
import sys, msgspec
from pathlib import Path
from alcove.local import LocalSandboxConfig, native
from alcove.local.doctor import diagnose
launcher = sys.argv[2] or str(native.find())
sys.stdout.buffer.write(msgspec.json.encode(diagnose(LocalSandboxConfig(root_dir=sys.argv[1], native=launcher))))
"""
FILTER = Path(__file__).with_name("docker_filter.py")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor") / "store"


@pytest.fixture(scope="module")
def report(home: Path) -> Report:
    return diagnose(LocalSandboxConfig(root_dir=str(home)))


@pytest.fixture
def backend(home: Path) -> Iterator[LocalSandbox]:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(home)))
    yield backend
    asyncio.run(backend.aclose())


def one(report: Report, number: str) -> Finding:
    [found] = [finding for finding in report.findings if finding.id == number]
    return found


@asynccontextmanager
async def session(backend: LocalSandbox, spec: SandboxSpec) -> AsyncIterator[SandboxSession]:
    made = await backend.provision(spec)
    try:
        yield made
    finally:
        await backend.terminate(made.id)


async def is_made(backend: LocalSandbox, spec: SandboxSpec) -> bool:
    try:
        async with session(backend, spec) as made:
            return (await backend.exec(made.id, ExecRequest("true"))).success
    except SandboxError:
        return False


@pytest.mark.user
async def test_a_session_is_made_exactly_where_the_report_is_ok(report: Report, backend: LocalSandbox) -> None:
    assert report.ok == await is_made(backend, SandboxSpec(network_policy=Limited()))
    assert report.ok, report.findings


@pytest.mark.user
@pytest.mark.parametrize(
    ("number", "limits"),
    [("memory", ResourceLimits(memory_mb=128)), ("cpu", ResourceLimits(cpu_count=1))],
)
async def test_a_limit_is_enforced_exactly_where_the_report_says_so(
    report: Report, backend: LocalSandbox, number: str, limits: ResourceLimits
) -> None:
    told = one(report, number).status == "ok"

    assert told == await is_made(backend, SandboxSpec(network_policy=Limited(), limits=limits))


@pytest.mark.user
async def test_the_host_s_network_is_shared_exactly_where_the_report_says_so(
    report: Report, backend: LocalSandbox
) -> None:
    told = one(report, "host-network").status == "ok"

    assert told == await is_made(backend, SandboxSpec(network_policy=Unrestricted()))


@pytest.mark.user
async def test_the_report_tells_the_isolation_of_a_session_as_the_session_does(
    report: Report, backend: LocalSandbox
) -> None:
    async with session(backend, SandboxSpec(network_policy=Limited())) as made:
        layers = made.metadata["isolation"].split(",")

    told = one(report, "session").fact
    assert all(layer in told for layer in layers)
    abi = next((layer.partition(":")[2] for layer in layers if layer.startswith("landlock")), "0")
    assert one(report, "landlock").fact == f"Landlock ABI {abi}"


@pytest.mark.user
def test_nothing_of_it_stays(home: Path, report: Report) -> None:
    groups = subprocess.run(
        ["find", "/sys/fs/cgroup", "-maxdepth", "4", "-name", f"alcove-doctor-{os.getpid()}-*"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert sorted(entry.name for entry in home.iterdir() if entry.name.startswith("doctor-")) == []
    assert groups.stdout == ""


@pytest.mark.user
def test_it_can_be_asked_inside_a_running_loop(home: Path) -> None:
    async def ask() -> Report:
        return diagnose(LocalSandboxConfig(root_dir=str(home)))

    assert asyncio.run(ask()).ok


@pytest.mark.user
def test_the_probe_answers_for_every_step() -> None:
    probed = gather(LocalSandboxConfig()).native
    skipped = {name for name, value in probed.items() if value == -1}

    assert len(probed) == 30
    assert skipped == (set() if os.geteuid() == 0 else {"host_tree"})


# Worse places. The interpreter and the store must be within the reach of whoever asks there.


def ask(argv: list[str], home: Path) -> Report:
    launcher = os.environ.get("ALCOVE_TEST_NATIVE", "")
    done = subprocess.run(
        [*argv, sys.executable, "-c", TELL, str(home), launcher], capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Report)


@pytest.mark.user
def test_under_a_filter_like_docker_s_it_names_the_filter(tmp_path: Path) -> None:
    report = ask([sys.executable, str(FILTER)], tmp_path / "store")

    assert not report.ok
    for number in ("kernel", "user-namespace"):
        assert "Seccomp: 2" in one(report, number).fact
        assert "seccomp=unconfined" in one(report, number).remedy
    assert one(report, "session").status == "missing"


@pytest.mark.user
def test_where_no_user_namespace_is_left_it_names_the_sysctl(tmp_path: Path) -> None:
    within = ["unshare", "--user", "--map-root-user", "sh", "-c"]

    report = ask([*within, 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"], tmp_path / "store")

    assert not report.ok
    assert "user.max_user_namespaces = 0" in one(report, "user-namespace").fact


@pytest.mark.user
def test_as_the_root_of_a_small_user_namespace_it_counts_the_ids(tmp_path: Path) -> None:
    report = ask(["unshare", "--user", "--map-root-user"], tmp_path / "store")

    assert not report.ok
    assert "has 1 ids" in one(report, "user-namespace").fact


@pytest.mark.user
def test_over_a_masked_proc_it_names_the_masks(tmp_path: Path) -> None:
    within = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c"]
    cover = 'mount -t tmpfs none /proc/fs && exec setpriv --inh-caps=-all --ambient-caps=-all "$@"'
    if os.geteuid() == 0:
        within = ["unshare", "--mount", "sh", "-c"]
        cover = 'mount -t tmpfs none /proc/fs && exec "$@"'

    report = ask([*within, cover, "sh"], tmp_path / "store")

    assert not report.ok
    assert "/proc/fs" in one(report, "proc").fact
    assert "systempaths=unconfined" in one(report, "proc").remedy


@pytest.mark.root
def test_as_a_root_without_its_power_it_sends_to_a_plain_user(tmp_path: Path) -> None:
    report = ask(["setpriv", "--bounding-set=-sys_admin"], tmp_path / "store")

    assert not report.ok
    assert "CAP_SYS_ADMIN" in one(report, "mounts").fact
    assert "--user 1000:1000" in one(report, "mounts").remedy


@pytest.mark.root
def test_with_docker_s_capabilities_and_sys_admin_sessions_are_made(tmp_path: Path) -> None:
    kept = (
        "chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service sys_chroot kill"
    )
    bounding = ",".join(["-all", *(f"+{name}" for name in kept.split()), "+audit_write", "+sys_admin"])

    assert ask(["setpriv", f"--bounding-set={bounding}"], tmp_path / "store").ok


@pytest.mark.user
@pytest.mark.parametrize(
    ("option", "number"), [("--nofile=1024:1024", "open-files"), ("--nproc=90:90", "user-processes")]
)
def test_hard_limits_below_a_session_s_are_what_the_session_gets(tmp_path: Path, option: str, number: str) -> None:
    report = ask(["prlimit", option], tmp_path / "store")

    assert one(report, number).status == "limited"
    assert one(report, "session").status == "ok"


@pytest.mark.root
def test_a_noexec_store_is_told_and_true(tmp_path: Path) -> None:
    place = tmp_path / "noexec"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", str(place)], check=True)
    try:
        home = place / "store"
        report = ask([], home)
        code = asyncio.run(run_a_script(LocalSandbox(LocalSandboxConfig(root_dir=str(home)))))
    finally:
        subprocess.run(["umount", str(place)], check=True)

    assert one(report, "store-exec").status == "limited"
    assert code == 126


async def run_a_script(backend: LocalSandbox) -> int:
    try:
        async with session(backend, SandboxSpec(network_policy=Limited())) as made:
            script = "printf '#!/bin/sh\\n' >made && chmod +x made && ./made"
            return (await backend.exec(made.id, ExecRequest("sh", ["-c", script]))).exit_code
    finally:
        await backend.aclose()
