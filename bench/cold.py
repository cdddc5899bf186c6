"""The first session of an interpreter, timed from inside it: ``python -m bench.cold STORE`` prints milliseconds."""

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path


async def _life(store: Path, clock: list[int]) -> None:
    from bench.local import Alcove

    alcove = Alcove(store)
    session = await alcove.provision()
    clock.append(time.perf_counter_ns())
    try:
        (await alcove.exec(session.id, ["/bin/true"])).checked()
        clock.append(time.perf_counter_ns())
    finally:
        await alcove.backend.terminate(session.id)
    clock.append(time.perf_counter_ns())


def main(store: Path) -> None:
    clock = [time.perf_counter_ns()]
    from alcove import LocalSandbox  # noqa: F401  the import is what is timed

    clock.append(time.perf_counter_ns())
    asyncio.run(_life(store, clock))
    spans = [(end - start) / 1e6 for start, end in itertools.pairwise(clock)]
    print(json.dumps(dict(zip(("import", "create", "first exec", "terminate"), spans, strict=True))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
