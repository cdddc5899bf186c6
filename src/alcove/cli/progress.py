"""How far something has come, on a terminal: a bar for what copies long, a count for what is looked through."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from alcove.cli.failures import colours

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds after which somebody wonders whether anything happens.
_PATIENCE_S = 0.5
_TOLD_EVERY = 1000


class CopyBar:
    """Counts bytes that were copied, on stderr; `advance` may be called from any thread."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._wanted = os.isatty(2)
        self._begun = time.monotonic()
        self._copied = 0
        self._shown: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wanted = False
        if self._shown is not None:
            self._shown.stop()

    def advance(self, count: int) -> None:
        """So many bytes more are there."""
        self._copied += count
        if not self._wanted:
            return
        if self._shown is None and time.monotonic() - self._begun > _PATIENCE_S:
            self._shown = self._show()
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=self._copied)

    def _show(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        shown = Progress(*columns, console=Console(stderr=True, no_color=not colours(2)), transient=True)
        shown.add_task(self._what, total=None)
        shown.start()
        return shown


@contextmanager
def counted(what: str) -> Iterator[Callable[[int], None] | None]:
    """Yield what to call with each further number of things; None where nobody looks."""
    if not os.isatty(2):
        yield None
        return
    count = told = 0

    def advance(more: int) -> None:
        nonlocal count, told
        count += more
        if count - told >= _TOLD_EVERY:
            told = count
            sys.stderr.write(f"\r{count} {what} ")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if told:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
