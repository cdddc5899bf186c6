"""The keeper of a service: one small helper per user and store, started by whoever needs the service first.

It holds the service's socket and starts the service again when that dies; a request that comes meanwhile waits in the
socket's queue. The service goes on with what the store says, and ends, its keeper with it, when it has nothing left to
do. Nothing else depends on either.
"""

import asyncio
import fcntl
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from msgspec import Struct

from alcove.contract import LifecycleError, NetworkPolicyError, SandboxError
from alcove.local.cell.launch import connect, listen
from alcove.local.locking import exclusively
from alcove.local.readiness import readable

_START_WITHIN_S = 20.0
_READY_FD = 3
_ALONE = "alone"
#: A service that dies again and again is given up after so many times in a row.
_MOST_DEATHS = 20
_SETTLED_S = 2.0


class Service(Struct, frozen=True):
    """What a keeper keeps: `module` has an async `run(root, listener)`; NAME.sock, .start and .err are in the store.

    `linger` is for how many seconds it stays that has nothing left to do.
    """

    name: str
    module: str
    failure: type[SandboxError]
    linger: float

    @property
    def socket(self) -> str:
        """The name of its socket."""
        return f"{self.name}.sock"


EGRESS = Service("egress", "alcove.local.network.egress_service", NetworkPolicyError, linger=5.0)
CHORES = Service("chores", "alcove.local.chores", LifecycleError, linger=1.0)
_SERVICES = {service.name: service for service in (EGRESS, CHORES)}


def reach(root: str, service: Service = EGRESS) -> socket.socket:
    """A connection to a service, not blocking.

    Raises:
        OSError: nobody listens.
    """
    return connect(root, service.socket)


async def ensure(root: str, service: Service = EGRESS) -> None:
    """Have a service and its keeper.

    Raises:
        SandboxError: it does not start (the service's `failure`); its log tells why.
    """
    if not _listens(root, service):
        await start(root, service)


async def start(root: str, service: Service = EGRESS) -> None:
    """Start a keeper, unless one is there.

    Raises:
        SandboxError: it does not start (the service's `failure`); its log tells why.
    """
    lock = os.open(f"{root}/{service.name}.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await exclusively(lock)
        if not _listens(root, service):
            await _start(root, service)
    finally:
        os.close(lock)


def nudge(root: str, service: Service) -> None:
    """Say that there is something to do, and have the service started if it is not there; waits for neither.

    Raises:
        OSError: nothing can be started; the next one who comes tries again.
    """
    try:
        with reach(root, service) as connection:
            connection.send(b"p")
    except BlockingIOError:
        return  # its queue is full: it will look
    except OSError:
        _spawn_alone(root, service)


def _listens(root: str, service: Service) -> bool:
    try:
        reach(root, service).close()
    except BlockingIOError:
        return True  # its queue is full: somebody is there
    except OSError:
        return False
    return True


async def _start(root: str, service: Service) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        log = os.open(f"{root}/{service.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _spawn(root, service, log, writing)
        finally:
            os.close(log)
            os.close(writing)
        if not await readable(reading, _START_WITHIN_S) or os.read(reading, 1) != b"r":
            raise service.failure(f"the {service.name} service does not start; {root}/{service.name}.err tells why")
    finally:
        os.close(reading)


def _spawn(root: str, service: Service, log: int, ready: int) -> None:
    """Through a process that ends at once, so that the keeper is nobody's child to wait for."""
    argv = [sys.executable, "-P", "-m", "alcove.local.keeper", root, service.name]
    pid = os.posix_spawn(
        sys.executable,
        argv,
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, ready, _READY_FD),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, 0, 1),
        ],
        setsid=True,
    )
    os.waitpid(pid, 0)


def _spawn_alone(root: str, service: Service) -> None:
    """Through a shell that ends at once: the keeper sees to it by itself that it is the only one."""
    argv = ["sh", "-c", '"$0" "$@" &', sys.executable, "-P", "-m", "alcove.local.keeper", root, service.name, _ALONE]
    log = os.open(f"{root}/{service.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            argv,
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
    os.waitpid(pid, 0)


def _environment() -> dict[str, str]:
    return {name: value for name in ("PYTHONPATH", "PATH", "LANG") if (value := os.environ.get(name))}


def alone(root: str, service: Service) -> None:
    """Be the keeper of a service, unless there is one."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what a caller let be inherited
    lock = os.open(f"{root}/{service.name}.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _listens(root, service):
            return
        listener = listen(root, service.socket)
    finally:
        os.close(lock)
    _title("alcove-keeper")
    _keep(root, service, listener)


def main(root: str, service: Service, ready: int) -> None:
    """Leave a keeper of the service behind."""
    if os.fork() != 0:
        return
    _title("alcove-keeper")
    os.closerange(_READY_FD + 1, os.sysconf("SC_OPEN_MAX"))  # what a caller let be inherited
    listener = listen(root, service.socket)
    os.write(ready, b"r")
    os.close(ready)
    _keep(root, service, listener)


def _keep(root: str, service: Service, listener: socket.socket) -> None:
    import time

    deaths = 0
    while deaths < _MOST_DEATHS:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _serve(root, service, listener)
        _, status = os.waitpid(pid, 0)
        if status == 0 and not select.select([listener], [], [], 0)[0]:  # else somebody came while it was ending
            break
        deaths = deaths + 1 if time.monotonic() - began < _SETTLED_S else 0
        if deaths:
            time.sleep(min(0.05 * deaths, 1.0))
    with suppress(FileNotFoundError):
        os.unlink(f"{root}/{service.socket}")


def _serve(root: str, service: Service, listener: socket.socket) -> None:
    """Be the service; ends this process."""
    import traceback
    from importlib import import_module

    _title(f"alcove-{service.name}")
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(import_module(service.module).run(root, listener))
    except BaseException:  # noqa: BLE001 - the end of a process of ours: told, and started again
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _title(name: str) -> None:
    with open("/proc/self/comm", "w") as file:
        file.write(name)


def _die_with_parent() -> None:
    """A service without its keeper would hold sessions that the next keeper serves too."""
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    if sys.argv[3:] == [_ALONE]:
        alone(sys.argv[1], _SERVICES[sys.argv[2]])
    else:
        main(sys.argv[1], _SERVICES[sys.argv[2]], _READY_FD)
