"""hammer HOST PORT STOP: connections, one after the other in many tasks, until the file STOP is there; how many."""

import asyncio
import json
import os
import sys

TASKS = 16


async def hammer(host: str, port: int, stop: str, told: dict[str, int]) -> None:
    while not os.path.exists(stop):  # noqa: ASYNC240 - nobody else waits here
        try:
            reader, writer = await asyncio.open_connection(host, port)
            served = bool(await asyncio.wait_for(reader.read(1), 20))
            writer.transport.abort()
        except OSError:
            served = False
        told["served" if served else "refused"] += 1


async def main(host: str, port: str, stop: str) -> None:
    told = {"served": 0, "refused": 0}
    await asyncio.gather(*(hammer(host, int(port), stop, told) for _ in range(TASKS)))
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
