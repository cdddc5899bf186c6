"""The last word: a whole session with one command, made and ended in a store of its own beside the sessions'."""

import asyncio
import os
import secrets
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from msgspec.structs import replace

from alcove.contract import ExecRequest, Limited, ResourceLimits, SandboxError, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.doctor.facts import Store, Trial
from alcove.local.removal import remove_tree

_MEMORY_MB = 256
_EXEC_WITHIN_S = 10.0


def attempt(config: LocalSandboxConfig, store: Store) -> Trial:
    """Make a session as a caller would, run `true` in it, end it. Runs in a thread: the caller may have a loop."""
    beside = tempfile.gettempdir() if store.error else store.path
    place = os.path.join(beside, f"doctor-{secrets.token_hex(6)}")
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(_session(replace(config, root_dir=place)))).result()
    except (SandboxError, OSError) as error:
        return Trial(error=str(error))
    finally:
        with suppress(OSError):
            remove_tree(place)


async def _session(config: LocalSandboxConfig) -> Trial:
    backend = LocalSandbox(config)
    spec = SandboxSpec(
        network_policy=Limited(),
        limits=ResourceLimits(cpu_count=1, memory_mb=_MEMORY_MB, wall_time=_EXEC_WITHIN_S),
        best_effort=True,
    )
    try:
        began = time.perf_counter()
        session = await backend.provision(spec)
        try:
            result = await backend.exec(session.id, ExecRequest("true"))
        finally:
            await backend.terminate(session.id)
        took = (time.perf_counter() - began) * 1000
    finally:
        await backend.aclose()
    return Trial(
        error="" if result.success else f"`true` ended with {result.exit_code}: {result.stderr.strip()}",
        isolation=session.metadata["isolation"],
        limits=session.metadata["limits"],
        milliseconds=took,
    )
