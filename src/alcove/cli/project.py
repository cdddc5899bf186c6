"""`alcove diff`, `apply` and `discard`: what a session changed of a host directory, and what becomes of that."""

import os
import re
import sys
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alcove.cli.failures import colours, warn
from alcove.cli.grammar import Given
from alcove.cli.local import with_backend
from alcove.local.exec.terminal import TerminalSandbox

if TYPE_CHECKING:
    from alcove.changes import Applied, Change, Refusal

#: Not everything was written.
_INCOMPLETE = 1
_MARKS = {"added": "A", "modified": "M", "deleted": "D", "renamed": "R"}
_RED, _GREEN, _YELLOW, _CYAN, _BOLD, _PLAIN = (f"\033[{code}m" for code in (31, 32, 33, 36, 1, 0))
_MARK_COLOURS = {"A": _GREEN, "M": _YELLOW, "D": _RED, "R": _CYAN}
# The longer first: a header begins with what a line of content begins with
_LINE_COLOURS = (("+++", _BOLD), ("---", _BOLD), ("diff ", _BOLD), ("@@", _CYAN), ("+", _GREEN), ("-", _RED))
# What a terminal may take for an order, C1 and lone surrogates (bytes that are no UTF-8) included
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def diff(given: Given) -> int:
    """Tell what a session changed."""

    async def work(backend: TerminalSandbox) -> int:
        session_id, *paths = given.words
        found = await backend.changes(session_id, paths or None, target=given["target"], patch=given["patch"])
        if given["json"]:
            _print_json([_fields(change) for change in found])
        elif given["patch"]:
            _print_patches(found)
        else:
            _print_list(found)
        return 0

    return with_backend(given, work)


def apply(given: Given) -> int:
    """Write what a session changed to the host."""

    async def work(backend: TerminalSandbox) -> int:
        session_id, *paths = given.words
        outcome = await backend.apply(session_id, paths or None, target=given["target"])
        if given["json"]:
            _print_json(
                {
                    "applied": [_fields(change) for change in outcome.applied],
                    "conflicts": [_refusal(refusal) for refusal in outcome.conflicts],
                    "left": [_refusal(refusal) for refusal in outcome.left],
                }
            )
        else:
            _tell(outcome)
        return 0 if outcome.complete else _INCOMPLETE

    return with_backend(given, work)


def discard(given: Given) -> int:
    """Forget what a session changed."""

    async def work(backend: TerminalSandbox) -> int:
        await backend.discard(given.words[0], target=given["target"])
        return 0

    return with_backend(given, work)


def _tell(outcome: "Applied") -> None:
    _print_list(outcome.applied)
    for refusal in outcome.left:
        warn(f"not written: {_shown(refusal.path)}: {refusal.reason}")
    for refusal in outcome.conflicts:
        warn(f"conflict: {_shown(refusal.path)}: {refusal.reason}")
    if outcome.conflicts and not outcome.applied:
        warn("nothing was written; apply the others by their paths, or discard the changes")


# For people


def _print_list(found: "Iterable[Change]") -> None:
    coloured = colours(1)
    rows = list(found)
    several = len({change.target for change in rows}) > 1
    for change in rows:
        mark = _MARKS[change.kind]
        if coloured:
            mark = f"{_MARK_COLOURS[mark]}{mark}{_PLAIN}"
        print(f"{mark} {_told(change, several=several)}")


def _told(change: "Change", *, several: bool) -> str:
    place = f"{change.target}/" if several else ""
    path = _shown(f"{place}{change.path}") + ("/" if change.type == "directory" else "")
    old = "" if change.old_path is None else f"{_shown(f'{place}{change.old_path}')} -> "
    return f"{old}{path}{_mode(change)}"


def _mode(change: "Change") -> str:
    if change.mode is None or change.old_mode is None or change.mode == change.old_mode or change.type == "symlink":
        return ""
    return f" (mode {change.old_mode:o} -> {change.mode:o})"


def _shown(path: str) -> str:
    from alcove.state.patches import quoted

    return quoted(os.fsencode(path))


def _print_patches(found: "Iterable[Change]") -> None:
    changes = list(found)
    several = len({change.target for change in changes}) > 1
    target = ""
    for change in changes:
        if several and change.target != target:
            target = change.target
            _write(f"# {_shown(target)}\n")
        _write(change.patch or "")


def _write(text: str) -> None:
    """Write text that a guest made: as it is for a program, and without what a terminal would obey for a person."""
    if os.isatty(1):
        lines = [_CONTROL.sub(_escaped, line) for line in text.split("\n")]
        text = "\n".join(_coloured(line) for line in lines) if colours(1) else "\n".join(lines)
        print(text, end="")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _coloured(line: str) -> str:
    for start, colour in _LINE_COLOURS:
        if line.startswith(start):
            return f"{colour}{line}{_PLAIN}"
    return line


# For programs


def _print_json(value: object) -> None:
    from msgspec.json import encode

    print(encode(value).decode())


def _fields(change: "Change") -> dict[str, Any]:
    from msgspec.structs import asdict

    fields = asdict(change)
    for name in ("path", "old_path"):
        fields |= _named(name, fields[name])
    if change.patch is None:
        del fields["patch"]
    else:
        fields["patch"] = _text(change.patch)
    return fields


def _refusal(refusal: "Refusal") -> dict[str, Any]:
    return {"target": refusal.target, **_named("path", refusal.path), "reason": refusal.reason}


def _named(name: str, path: str | None) -> dict[str, str | None]:
    """A path, and its bytes where they are no UTF-8."""
    if path is None or _text(path) == path:
        return {name: path}
    return {name: _text(path), f"{name}_base64": b64encode(os.fsencode(path)).decode()}


def _text(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
