"""What the filter costs: `python -m tools.seccomp.measure`. Times of processes with and without it, taken in turns."""

import ctypes
import os
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "src/alcove/local/seccomp"
ROUNDS = 200
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2


def execute() -> None:
    _, status = os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    if status:
        raise ChildProcessError(f"/bin/true ended with status {status}")


def open_close() -> None:
    os.close(os.open("/dev/null", os.O_RDONLY))


def terminal_size() -> None:
    os.isatty(0)


# A call judged by number alone, two judged by argument, and a whole program
DEEDS: dict[str, tuple[Callable[[], object], int]] = {
    "getppid": (os.getppid, 20_000),
    "openat, close": (open_close, 5_000),
    "ioctl": (terminal_size, 10_000),
    "exec of /bin/true": (execute, 10),
}


class Worker:
    """A forked process that times one batch of a deed on request."""

    def __init__(self, program: bytes | None) -> None:
        asked, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            if program is not None:
                install(program)
            while request := os.read(asked, 1):
                os.write(answer, struct.pack("d", batch(*list(DEEDS.values())[request[0]])))
            os._exit(0)

    def time(self, deed: int) -> float:
        os.write(self._ask, bytes([deed]))
        seconds: float = struct.unpack("d", os.read(self._answer, 8))[0]
        return seconds

    def end(self) -> None:
        os.close(self._ask)
        os.wait()


def batch(deed: Callable[[], object], times: int) -> float:
    """Seconds of one `deed`, as the mean of `times`."""
    start = time.perf_counter()
    for _ in range(times):
        deed()
    return (time.perf_counter() - start) / times


def install(program: bytes) -> None:
    """`program` for this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    zero = ctypes.c_ulong(0)
    for option, value, pointer in ((PR_SET_NO_NEW_PRIVS, 1, zero), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog)):
        if libc.prctl(option, ctypes.c_ulong(value), pointer, zero, zero) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")


def main() -> None:
    program = (SHIPPED / f"{os.uname().machine}.default.bpf").read_bytes()
    os.close(0)
    os.open("/dev/null", os.O_RDONLY)
    workers = {"none": Worker(None), "filter": Worker(program), "none again": Worker(None)}
    for at, name in enumerate(DEEDS):
        samples: dict[str, list[float]] = {which: [] for which in workers}
        for _ in range(ROUNDS):
            for which, worker in workers.items():
                samples[which].append(worker.time(at))
        medians = {which: statistics.median(taken) for which, taken in samples.items()}
        told = ", ".join(f"{which} {median * 1e6:.3f} µs" for which, median in medians.items())
        sys.stdout.write(f"{name}: {medians['filter'] / medians['none']:.3f}× ({told})\n")
    for worker in reversed(workers.values()):
        worker.end()


if __name__ == "__main__":
    main()
