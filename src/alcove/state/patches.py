"""Changes as text: unified diffs in the form that `git apply` and `patch -p1` read."""

import os
import re
from collections.abc import Iterator

from msgspec import Struct

from alcove.contract import SandboxIoError
from alcove.state.changes import Change, ChangeKind
from alcove.state.entries import EntryType, Facts, Reach, open_content
from alcove.state.linediff import Edit, edits
from alcove.state.walk import shown

_CONTEXT = 3
_NO_NEWLINE = "\n\\ No newline at end of file"
_ESCAPES = dict(zip(b'\a\b\t\n\v\f\r"\\', 'abtnvfr"\\', strict=True))
_TEXT = frozenset({EntryType.FILE, EntryType.SYMLINK})


class DiffLimits(Struct, frozen=True):
    """How much one diff may cost: `bytes` of each side, and `steps` of comparing its lines."""

    bytes: int = 1 << 20
    steps: int = 2_000_000


_LIMITS = DiffLimits()


def quoted(path: bytes) -> str:
    """A path as git writes it: as it is if it is printable, else in double quotes with C escapes."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text and not re.search(r'["\\]', text):
        return text
    return f'"{"".join(map(_escaped, path))}"'


def _escaped(byte: int) -> str:
    if (escape := _ESCAPES.get(byte)) is not None:
        return f"\\{escape}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def unified_diff(lower_fd: int, upper_fd: int, change: Change, *, limits: DiffLimits = _LIMITS) -> str:
    """One change as a unified diff; empty where git has no words for it (directories, FIFOs, sockets, owners).

    Binary and large files are named and not shown, and lines that would cost too much to compare are replaced as a
    whole. Names cannot carry escape sequences, but contents can: they are shown as they are, bytes that are no UTF-8 as
    `surrogateescape`; what prints to a terminal has to see to them.

    Raises:
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: the file cannot be read.
    """
    diff = _Diff(lower_fd, upper_fd, change, limits)
    if change.type_changed:
        return diff.text(change.before, None) + diff.text(None, change.after)
    return diff.text(change.before, change.after)


class _Diff(Struct, frozen=True):
    lower: int
    upper: int
    change: Change
    limits: DiffLimits

    def text(self, before: Facts | None, after: Facts | None) -> str:
        if any(side is not None and side.type not in _TEXT for side in (before, after)):
            return ""
        change = self.change
        old = _Side(self.lower, b"a/", change.old_path or change.path, before, lend=False)
        new = _Side(self.upper, b"b/", change.path, after, lend=True)
        head = [f"diff --git {quoted(b'a/' + old.path)} {quoted(b'b/' + new.path)}", *_headers(change, before, after)]
        if change.content_changed:
            head += _body(old, new, self.limits, binary=change.binary)
        elif len(head) == 1:
            return ""
        return "\n".join(head) + "\n"


def _headers(change: Change, before: Facts | None, after: Facts | None) -> Iterator[str]:
    if before is None and after is not None:
        yield f"new file mode {_git_mode(after)}"
    elif after is None and before is not None:
        yield f"deleted file mode {_git_mode(before)}"
    elif before is not None and after is not None and change.mode_changed:
        yield f"old mode {_git_mode(before)}"
        yield f"new mode {_git_mode(after)}"
    if change.kind is ChangeKind.RENAMED and change.old_path is not None:
        yield "similarity index 100%"
        yield f"rename from {quoted(change.old_path)}"
        yield f"rename to {quoted(change.path)}"


def _git_mode(entry: Facts) -> str:
    return "120000" if entry.type is EntryType.SYMLINK else f"{0o100000 | entry.mode:06o}"


class _Side(Struct, frozen=True):
    """One of the two files."""

    root: int
    prefix: bytes
    path: bytes
    entry: Facts | None
    lend: bool

    @property
    def name(self) -> str:
        """How the diff calls it."""
        return "/dev/null" if self.entry is None else quoted(self.prefix + self.path)

    def content(self, limit: int) -> bytes | None:
        """What is in it; None: more than `limit` bytes."""
        if self.entry is None:
            return b""
        if self.entry.target is not None:
            return self.entry.target
        try:
            with Reach(self.root, lend=self.lend) as reach:
                parent, name = reach.parent(self.path)
                with open(open_content(name, parent, lend=self.lend), "rb", buffering=0) as file:
                    content = _read(file.fileno(), limit + 1)
        except OSError as error:
            raise SandboxIoError(f"cannot read {shown(self.path)}: {error.strerror}") from None
        return None if len(content) > limit else content


def _read(fd: int, limit: int) -> bytes:
    parts = []
    while limit and (part := os.read(fd, limit)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _body(old: _Side, new: _Side, limits: DiffLimits, *, binary: bool) -> Iterator[str]:
    if binary:
        yield f"Binary files {old.name} and {new.name} differ"
        return
    before, after = old.content(limits.bytes), new.content(limits.bytes)
    if before is None or after is None:
        yield f"Files {old.name} and {new.name} differ: more than {limits.bytes} bytes"
        return
    if before == after:
        return
    a, b = _lines(before), _lines(after)
    # a tab ends a name that has spaces, or `patch` takes what follows the first for a date
    yield f"--- {old.name}" + "\t" * (" " in old.name)
    yield f"+++ {new.name}" + "\t" * (" " in new.name)
    for hunk in _hunks(edits(a, b, limits.steps)):
        yield from _shown(a, b, hunk)


def _lines(content: bytes) -> list[bytes]:
    """The lines with their ends; splitlines would end them at a carriage return too."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _hunks(found: list[Edit]) -> list[list[Edit]]:
    """Edits that are so near to each other that they share context belong together."""
    hunks: list[list[Edit]] = []
    for edit in found:
        if hunks and edit.a_start - hunks[-1][-1].a_end <= 2 * _CONTEXT:
            hunks[-1].append(edit)
        else:
            hunks.append([edit])
    return hunks


def _shown(a: list[bytes], b: list[bytes], hunk: list[Edit]) -> Iterator[str]:
    before = min(_CONTEXT, hunk[0].a_start)
    after = min(_CONTEXT, len(a) - hunk[-1].a_end)
    at, end = hunk[0].a_start - before, hunk[-1].a_end + after
    old = _range(at, end)
    new = _range(hunk[0].b_start - before, hunk[-1].b_end + after)
    yield f"@@ -{old} +{new} @@"
    for edit in hunk:
        yield from _marked(" ", a[at : edit.a_start])
        yield from _marked("-", a[edit.a_start : edit.a_end])
        yield from _marked("+", b[edit.b_start : edit.b_end])
        at = edit.a_end
    yield from _marked(" ", a[at:end])


def _range(start: int, end: int) -> str:
    """Lines as a hunk's header counts them: from 1, and none as after the line before."""
    if end - start == 1:
        return str(start + 1)
    return f"{start + (end > start)},{end - start}"


def _marked(mark: str, lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        text = line.decode(errors="surrogateescape")
        yield mark + (text[:-1] if text.endswith("\n") else text + _NO_NEWLINE)
