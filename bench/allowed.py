"""Alcove with an allow-list: sessions that reach the benchmarks' server by its name, and what serves them."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contender import WrongResultError
from bench.local import Alcove
from bench.origin import ADDRESS, NAME, Origin
from bench.processes import PROC, descendants, parse_fields
from bench.runtime import Reach

if TYPE_CHECKING:
    from alcove import LocalSandboxConfig, SandboxSpec

_UCRED = struct.Struct("3i")
_END_SECONDS = 10.0


class Allowed(Alcove):
    """Sessions with ``entries``, in a store whose operator says where the server's name leads to."""

    def __init__(self, store: Path, entries: Sequence[str]) -> None:
        super().__init__(store)
        self._entries = list(entries)

    def config(self) -> LocalSandboxConfig:
        from alcove import LocalSandboxConfig
        from alcove.egress.config import EgressConfig

        egress = EgressConfig(allow_addresses=(f"{ADDRESS}/32",), hosts=((NAME, (ADDRESS,)),))
        return LocalSandboxConfig(root_dir=str(self._store), egress=egress)

    def spec(self) -> SandboxSpec:
        from alcove import Limited, SandboxSpec

        return SandboxSpec(network_policy=Limited(allowed_hosts=self._entries))

    @contextmanager
    def reaching(self, origin: Origin) -> Iterator[Reach]:
        with self.live() as run:
            yield Reach(run, replace(origin.own, host=NAME))

    def close(self) -> None:
        super().close()
        with suppress(OSError, ProcessLookupError):
            end_keeper(keeper(self._store))


@contextmanager
def allowed(store: Path, *entries: str) -> Iterator[Allowed]:
    made = Allowed(store, entries)
    try:
        yield made
    finally:
        made.close()


def entries(origin: Origin) -> tuple[str, str]:
    """Both of the server's ports, neither of which is looked into."""
    return f"{NAME}:{origin.own.greeting}", f"{NAME}:{origin.own.http}"


def keeper(store: Path) -> int:
    """The process that holds the egress service's socket.

    Raises:
        OSError: there is none.
    """
    from alcove.local.keeper import reach

    with reach(str(store)) as connection:
        return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0])


def service(store: Path) -> int:
    """The egress service's process.

    Raises:
        WrongResultError: the keeper has not exactly one child.
    """
    held = keeper(store)
    children = descendants([held]) - {held}
    if len(children) != 1:
        raise WrongResultError(f"the keeper has {len(children)} children instead of the service")
    return min(children)


def end_keeper(pid: int) -> None:
    """End it, and the service with it, now: it would wait for another session, and its store is to be deleted."""
    with open_pidfd(pid) as fd:
        os.kill(pid, signal.SIGTERM)
        _await_exit(fd)


@contextmanager
def open_pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _await_exit(pidfd: int) -> None:
    if not select.select([pidfd], [], [], _END_SECONDS)[0]:
        raise WrongResultError(f"the keeper did not end within {_END_SECONDS:g} s")


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return parse_fields((PROC / str(pid) / "status").read_text())["VmRSS"]


def descriptors(pid: int) -> int:
    return len(os.listdir(PROC / str(pid) / "fd"))
