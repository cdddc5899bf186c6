"""``python -m bench.reopen STORE``: open a store, put right what was cut short, list it; the seconds, as JSON."""

import asyncio
import json
import sys
import time


def main(store: str) -> None:
    from alcove import LocalSandbox, LocalSandboxConfig

    start = time.perf_counter_ns()
    backend = LocalSandbox(LocalSandboxConfig(root_dir=store))
    asyncio.run(backend.recover())
    sessions, snapshots = backend.sessions(), backend.snapshots()
    seconds = (time.perf_counter_ns() - start) / 1e9
    print(json.dumps({"seconds": seconds, "sessions": len(sessions), "snapshots": len(snapshots)}))


if __name__ == "__main__":
    main(sys.argv[1])
