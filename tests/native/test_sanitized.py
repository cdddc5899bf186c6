"""The launcher under AddressSanitizer and UndefinedBehaviorSanitizer: decoder fuzzed, and whole sessions run."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from alcove import (
    ExecRequest,
    ExecResult,
    FilesystemMount,
    InvalidRequest,
    Limited,
    LocalSandbox,
    LocalSandboxConfig,
    SandboxSpec,
)
from alcove.testing import no_leaks

SANITIZED = ("-Db_sanitize=address,undefined", "-Doptimization=1", "-Ddebug=true")
PLANS = 200_000

Variant = Callable[..., Path]


@pytest.fixture(scope="module")
def sanitized(native_variant: Variant) -> Path:
    return native_variant("sanitized", *SANITIZED)


@pytest.mark.timeout(300)
def test_the_plan_decoder_survives_what_is_no_plan(native_variant: Variant) -> None:
    launcher = native_variant("fuzzed", "-Dfuzz=true", *SANITIZED)
    # libFuzzer counts by -runs; our own main by its first argument
    fuzzer = launcher.with_name("fuzz-plan")
    by_clang = b"LLVMFuzzerRunDriver" in fuzzer.read_bytes()
    arguments = [f"-runs={PLANS}", "-seed=7"] if by_clang else [str(PLANS), "7"]
    done = subprocess.run([fuzzer, *arguments], capture_output=True, check=False, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
async def test_sessions_run_without_a_report(sanitized: Path, tmp_path: Path) -> None:
    """A report aborts the process that it is about, and each of these would then fail."""
    store = tmp_path / "store"
    backend = LocalSandbox(LocalSandboxConfig(native=str(sanitized), root_dir=str(store)))
    async with no_leaks(store):
        session = await backend.provision(SandboxSpec(network_policy=Limited()))

        async def run(command: str, *arguments: str, **more: object) -> ExecResult:
            return await backend.exec(session.id, ExecRequest(command, arguments, **more))  # type: ignore[arg-type]

        assert (await run("echo", "hello")).stdout == "hello\n"
        assert (await run("cat", stdin="x" * 1_000_000)).stdout == "x" * 1_000_000
        assert (await run("echo", *("y" * 1000,) * 1000)).exit_code == 0
        assert (await run("nosuch")).exit_code == 127
        assert (await run("type", "cd")).exit_code == 0
        assert (await run("sh", "-c", "kill -9 $$")).signal == 9
        assert (await run("sh", "-c", "kill -9 -1; echo still")).stdout == "still\n"
        assert (await run("sh", "-c", "setsid sleep 60 & sleep 60", timeout=0.2)).timed_out
        with pytest.raises(InvalidRequest):
            await run("true", user="nobody-of-that-name")
        await backend.attach_filesystem(session.id, FilesystemMount("", "/data/deep/down"))
        assert (await run("ls", "/data/deep")).stdout == "down\n"
        many = await asyncio.gather(*(run("sh", "-c", f"exit {code}") for code in range(20)))
        assert [result.exit_code for result in many] == list(range(20))
        await backend.terminate(session.id)
    await backend.aclose()
