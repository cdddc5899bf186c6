"""The commands that write snapshots as archives and read them again."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

from msgspec.json import encode
from msgspec.structs import replace

from alcove.cli.failures import colours, warn
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import snapshot, with_backend
from alcove.contract import to_json
from alcove.local import ImportLimits
from alcove.local.exec.terminal import TerminalSandbox

_Tell: TypeAlias = Callable[[int], None]
# How often an import reads its archive
_READINGS = 3


def export(given: Given) -> int:
    """Write a snapshot as an archive."""
    reference, file = given.words[0], _file(given, 1)
    if file is None and given["json"]:
        raise Usage(f"--json is about what was written, and stdout is the archive: name a FILE\n  {_example(given)}")
    if file is None and os.isatty(1):
        raise Usage(f"an archive is nothing for a terminal: name a FILE, or give it to a pipe\n  {_example(given)}")

    async def work(backend: TerminalSandbox) -> int:
        found = snapshot(backend, reference)
        kind: Any = given["compression"] or "zstd"
        with _opened(file, 1) as place, _shown("exporting", _number(found.metadata.get("bytes"))) as tell:
            done = await backend.export_snapshot(
                found.snapshot_id, place, compression=kind, flat=given["flat"], progress=tell
            )
        if given["json"]:
            print(encode(done).decode())
        return 0

    return with_backend(given, work)


def import_(given: Given) -> int:
    """Make a snapshot of an archive."""
    file = _file(given, 0)
    if file is None and os.isatty(0):
        raise Usage("an archive comes from a file or a pipe: alcove import FILE")
    asked = {"total_bytes": given["max_size"], "entries": given["max_entries"]}
    limits = replace(ImportLimits(), **{key: number for key, number in asked.items() if number is not None})

    async def work(backend: TerminalSandbox) -> int:
        with _opened(file, 0) as place, _shown("importing", _READINGS * _size(file)) as tell:
            made = await backend.import_snapshot(
                place, name=given["name"], set_id=given["set_id"], limits=limits, progress=tell
            )
        if made.metadata.get("owners") == "squashed":
            warn("the owners of its files could not be given: all of them are the session's root's now")
        print(to_json(made).decode() if given["json"] else made.snapshot_id)
        return 0

    return with_backend(given, work)


def _file(given: Given, index: int) -> str | None:
    """The path that was named, or None for a standard stream."""
    word = given.words[index] if len(given.words) > index else "-"
    return None if word == "-" else word


def _example(given: Given) -> str:
    return f"alcove export {given.words[0]} {given.words[0]}.tar"


@contextmanager
def _opened(file: str | None, stream: int) -> Iterator[str | BinaryIO]:
    if file is not None:
        yield file
    elif stream:
        with open(stream, "wb", closefd=False) as out:
            yield out
    else:
        with open(stream, "rb", buffering=0, closefd=False) as source:
            yield source


def _size(file: str | None) -> int:
    """How long an archive is; 0 where that is not known before its end."""
    return os.stat(0 if file is None else file).st_size


def _number(text: str | None) -> int:
    return int(text or 0)


@contextmanager
def _shown(what: str, total: int) -> Iterator[_Tell | None]:
    """A progress bar on stderr, where that is a terminal."""
    if not os.isatty(2):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True, no_color=not colours(2)), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda number: bar.advance(task, number)
