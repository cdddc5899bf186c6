"""mixture: connections at random, of which some are allowed; what to try is told on stdin as JSON. Tells how each went.

A kind of attempt has `host`, `port`, `say` in hex, what an answer has in it where it is `allowed`, in hex, and maybe
`tls`, the name to ask for. The output has, for each kind, how many were served and how many were not.
"""

import asyncio
import json
import random
import ssl
import sys
from typing import Any

TASKS = 48
CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


async def served(kind: dict[str, Any]) -> bool:
    secure = {"ssl": CONTEXT, "server_hostname": kind["tls"]} if "tls" in kind else {}
    reader, writer = await asyncio.open_connection(kind["host"], kind["port"], **secure)
    try:
        writer.write(bytes.fromhex(kind["say"]))
        wanted = bytes.fromhex(kind.get("allowed", ""))
        got = b""
        while data := await reader.read(4096):
            got += data
            if not wanted or wanted in got:
                return True
        return False
    finally:
        writer.transport.abort()


async def work(kinds: dict[str, dict[str, Any]], left: list[str], told: dict[str, list[int]]) -> None:
    while left:
        name = left.pop()
        try:
            went = await asyncio.wait_for(served(kinds[name]), 30)
        except (OSError, ValueError):
            went = False
        told[name][not went] += 1


async def main() -> None:
    order = json.load(sys.stdin)
    kinds = order["kinds"]
    choice = random.Random(order["seed"])
    left = choice.choices(list(kinds), k=order["count"])
    told = {name: [0, 0] for name in kinds}
    await asyncio.gather(*(work(kinds, left, told) for _ in range(TASKS)))
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
