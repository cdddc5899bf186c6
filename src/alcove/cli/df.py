"""`alcove df`."""

import os

from alcove.cli import tables
from alcove.cli.grammar import Given
from alcove.cli.local import with_backend
from alcove.cli.progress import counted
from alcove.local.disk.usage import FileSystemUsage, SessionUsage, StoreUsage
from alcove.local.exec.terminal import TerminalSandbox

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_BAR = 40


def df(given: Given) -> int:
    """Show what the store takes of its disk, and who."""

    async def work(backend: TerminalSandbox) -> int:
        with counted("files looked at") as looked:
            usage = await backend.usage_beside(looked)
        if given["json"]:
            from msgspec.json import encode

            print(encode(usage).decode())
            return 0
        _show(usage)
        return 0

    return with_backend(given, work)


def _show(usage: StoreUsage) -> None:
    system = usage.file_system
    if os.isatty(1):
        print(_bar(system))
    tables.show(
        None,
        [
            ("store", system.store),
            ("disk", f"{size(system.total)}, {size(system.free)} free, {size(system.reserve)} of it reserved"),
            ("sessions", size(sum(session.own for session in usage.sessions))),
            ("layers", size(sum(layer.bytes for layer in usage.layers))),
            ("reclaimable", size(usage.reclaimable)),
        ],
    )
    if usage.sessions:
        print()
        tables.show(("SESSION", "OWN", "LIMIT", "LAYERS BELOW"), [_row(session) for session in usage.sessions])
    if usage.snapshots:
        found = [(each.id, each.name or "", size(each.bytes), size(each.only)) for each in usage.snapshots]
        print()
        tables.show(("SNAPSHOT", "NAME", "LAYERS", "FREED BY DELETION"), found)


def _row(session: SessionUsage) -> tuple[str, ...]:
    own = f"{size(session.own)}{'+' if session.partly else ''}"
    return (session.id, own, "" if session.limit is None else size(session.limit), size(session.below))


def _bar(system: FileSystemUsage) -> str:
    """Used, free, and the reserve at the end."""
    kept = min(round(_BAR * system.reserve / max(system.total, 1)) or 1, _BAR)
    used = min(round(_BAR * (1 - system.free / max(system.total, 1))), _BAR)
    cells = ["█" if at < used else "▒" if at >= _BAR - kept else "░" for at in range(_BAR)]
    return f"[{''.join(cells)}] █ used ░ free ▒ reserved"


def size(count: int) -> str:
    """Return a number of bytes for a person, to three digits."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 100 else f"{number:.1f} {_UNITS[unit]}"
