"""The egress service of this machine: serves again what the store says is live, then whatever is asked for."""

import asyncio
import resource
import socket
import sys

from alcove.contract import SandboxError
from alcove.egress.service import Door, Service
from alcove.local.cell.processes import alive
from alcove.local.keeper import EGRESS
from alcove.local.network import egress
from alcove.local.sessions import LiveSession, decoded
from alcove.local.store import Store


async def run(root: str, listener: socket.socket) -> None:
    """Serve until there has been no session for a while."""
    _raise_limits()
    service = Service()
    await _serve_again(root, service)
    door = Door(service, listener)
    serving = asyncio.create_task(door.serve())
    try:
        await _until_idle(service, door)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await service.close()


async def _until_idle(service: Service, door: Door) -> None:
    while True:
        await service.idle.wait()
        await asyncio.sleep(EGRESS.linger)
        if service.idle.is_set() and not door.busy:
            return


async def _serve_again(root: str, service: Service) -> None:
    store = Store(root)
    try:
        for row in store.sessions():
            spec, record = decoded(row)
            if record.egress is None or not record.egress.prepared or not alive(record.processes):
                continue
            live = LiveSession(row, spec, record, store.directory(row.key))
            try:
                await service.attach(*await egress.serve_again(live, record.egress))
            except SandboxError as error:  # it ended meanwhile, or is closed as long as it is not served
                sys.stderr.write(f"session {live.id}: {error}\n")
    finally:
        store.close()


def _raise_limits() -> None:
    """Two descriptors for each connection of each session."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
