"""Where a run has got to, on standard error: one line that is overwritten on a terminal, one line a case elsewhere."""

import sys
import time
from typing import TextIO


class ProgressLine:
    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._shown = 0.0
        self._case = ""
        self._began = time.monotonic()

    def case(self, name: str, number: int, cases: int) -> None:
        self._case = f"[{number}/{cases}] {name}"
        self._began = time.monotonic()

    def rounds(self, done: int, rounds: int) -> None:
        seconds = time.monotonic() - self._began
        if done == rounds:
            self._write(f"{self._case}: {rounds} rounds in {seconds:.1f} s", last=True)
        elif self._live and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            self._write(f"{self._case}: round {done + 1} of {rounds}, {seconds:.0f} s", last=False)

    def _write(self, text: str, *, last: bool) -> None:
        start = "\r\x1b[K" if self._live else ""
        end = "\n" if last else ""
        self._stream.write(f"{start}{text}{end}")
        self._stream.flush()
