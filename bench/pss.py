"""Proportional set size of processes, also where the measuring user may not read it.

Native processes are not dumpable, so the kernel lets root alone read their smaps_rollup. When root
re-runs the benchmarks as a plain user, it stays behind as the reader and answers over a socket pair.
"""

import json
import socket
import threading
from collections.abc import Iterable
from typing import Protocol

from bench.contender import WrongResultError
from bench.processes import PROC, parse_fields

_REQUEST_BYTES = 1 << 20


class PssReader(Protocol):
    def total(self, pids: Iterable[int]) -> int:
        """Bytes over all the pids.

        Raises:
            WrongResultError: a process is gone or may not be read.
        """
        ...


class OwnEyes:
    """Reads /proc itself."""

    def total(self, pids: Iterable[int]) -> int:
        return sum(_pss(pid) for pid in pids)


class RootsEyes:
    """Asks the process at the other end of a socket pair."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._answers = channel.makefile("rb")

    def total(self, pids: Iterable[int]) -> int:
        self._channel.sendall(json.dumps(sorted(pids)).encode() + b"\n")
        answer = json.loads(self._answers.readline() or b'"the reader of memory has ended"')
        if not isinstance(answer, int):
            raise WrongResultError(str(answer))
        return answer


def serve(channel: socket.socket) -> threading.Thread:
    """Answer the other end's questions until it closes."""
    thread = threading.Thread(target=_answer, args=(channel,), daemon=True)
    thread.start()
    return thread


def _answer(channel: socket.socket) -> None:
    eyes = OwnEyes()
    with channel.makefile("rb") as questions:
        while question := questions.readline(_REQUEST_BYTES):
            try:
                answer: int | str = eyes.total(int(pid) for pid in json.loads(question))
            except (WrongResultError, ValueError, TypeError) as error:
                answer = str(error)
            channel.sendall(json.dumps(answer).encode() + b"\n")


def _pss(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except PermissionError:
        raise WrongResultError(
            f"smaps_rollup of process {pid} may not be read: run as root, with --user for a plain user's figures"
        ) from None
    except (FileNotFoundError, ProcessLookupError):
        raise WrongResultError(f"process {pid} is gone") from None
    fields = parse_fields(text)
    if "Pss" not in fields:
        raise WrongResultError(f"process {pid} has no Pss line")
    return fields["Pss"]
