"""What a server saw, written by its loop and read by a test."""

import threading
import time
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Journal(Generic[T]):
    """Entries in the order they came; a test may wait for as many as it expects."""

    def __init__(self) -> None:
        self._entries: list[T] = []
        self._changed = threading.Condition()

    def add(self, entry: T) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> T:
        return self._entries[index]

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._entries))

    def __repr__(self) -> str:
        return f"Journal({self._entries!r})"

    def wait(self, count: int = 1, timeout: float = 10.0) -> tuple[T, ...]:
        """Return all entries once there are `count`; raises TimeoutError that shows what came instead."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(self._entries) < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{count} entries were expected within {timeout} s, these came: {self._entries}")
            return tuple(self._entries)
