"""One event loop in one background thread, for every synchronous call of the process.

It works where the caller's own thread runs a loop already (a notebook), from any number of threads, and after a fork:
the child, which has no such thread, starts another when it first needs one.
"""

import asyncio
import atexit
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

#: Seconds for which the interpreter's exit waits for what it has started to end.
EXIT_WITHIN_S = 10.0


class Loop(asyncio.SelectorEventLoop):
    """A loop that still runs blocking calls when the interpreter, on its way out, gives no more threads."""

    exiting = False

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Arguments]], _Result], *args: *_Arguments
    ) -> asyncio.Future[_Result]:
        """Run `func` in a thread, or at exit here and now."""
        if not self.exiting:
            return super().run_in_executor(executor, func, *args)
        done: asyncio.Future[_Result] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the future's reader gets it
            done.set_exception(error)
        return done


class Call(Generic[_Result]):
    """A coroutine on its way through the loop; `finished` is set when nothing of it runs any more."""

    def __init__(self, coroutine: Coroutine[Any, Any, _Result]) -> None:
        self.finished = threading.Event()
        self._coroutine = coroutine
        self._task: asyncio.Task[_Result] | None = None
        self._cancelled = False

    def start(self) -> None:
        """In the loop: begin, once."""
        if self._task is None and not self._cancelled:
            self._task = asyncio.get_running_loop().create_task(self._coroutine)
            self._task.add_done_callback(lambda _: self.finished.set())

    def cancel(self) -> None:
        """In the loop: end it, begun or not."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self.finished.set()

    def result(self) -> _Result:
        """What it returned or raised, after its end."""
        if self._task is None:
            raise asyncio.CancelledError
        return self._task.result()


class Portal:
    """A running loop and its thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop = Loop(self._selector)
        self._begun: set[Call[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="alcove-portal", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end.

        An interrupt of the caller (Ctrl-C) cancels it and is raised when nothing of it is left; a second one at once.
        """
        call = Call(coroutine)
        try:
            self._loop.call_soon_threadsafe(call.start)
            call.finished.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(call.cancel)
            call.finished.wait()
            raise
        return call.result()

    def begin(self, coroutine: Coroutine[Any, Any, _Result]) -> Call[_Result]:
        """Begin a coroutine and return; safe inside a garbage collection, and in the loop's own thread."""
        call = Call(coroutine)
        self._begun -= {other for other in tuple(self._begun) if other.finished.is_set()}
        self._begun.add(call)
        self._loop.call_soon_threadsafe(call.start)
        return call

    def finish(self, coroutine: Coroutine[Any, Any, object], within: float) -> None:
        """Run a coroutine at the interpreter's exit, for so many seconds at most."""
        self._loop.exiting = True
        call = self.begin(coroutine)
        if call.finished.wait(within):
            call.result()

    def stop(self) -> None:
        """Let what was begun come to its end, and end the thread; the portal is of no use afterwards."""
        self._loop.exiting = True
        for call in tuple(self._begun):
            call.finished.wait(EXIT_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(EXIT_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's epoll, which `Loop.close` would change under the parent."""
        self._selector.close()


_portal: Portal | None = None
_lock = threading.RLock()  # a garbage collection may come back here while it is held
_abandoned: list[Portal] = []
_last_words: list[Callable[[], Coroutine[Any, Any, object] | None]] = []


def portal() -> Portal:
    """The portal of this process, started when first asked for."""
    global _portal
    with _lock:
        if _portal is None:
            _portal = Portal()
        return _portal


def at_exit(last_words: Callable[[], Coroutine[Any, Any, object] | None]) -> None:
    """Run the coroutine that `last_words` returns, if any, when the interpreter exits."""
    _last_words.append(last_words)


@atexit.register
def _end() -> None:
    for last_words in _last_words:
        coroutine = last_words()
        if coroutine is None:
            continue
        if _portal is not None:
            _portal.finish(coroutine, EXIT_WITHIN_S)
        else:
            _run_here(coroutine)
    if _portal is not None:
        _portal.stop()


def _run_here(coroutine: Coroutine[Any, Any, object]) -> None:
    loop = Loop()
    loop.exiting = True
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, EXIT_WITHIN_S))
    finally:
        loop.close()


def _forget_the_parents() -> None:
    global _portal, _lock
    _lock = threading.RLock()
    if _portal is not None:
        _portal.abandon()
        _abandoned.append(_portal)  # for good: its end, too, would reach into what the parent uses
        _portal = None


os.register_at_fork(after_in_child=_forget_the_parents)
