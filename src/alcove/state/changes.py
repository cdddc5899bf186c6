"""What a session changed of a directory of the host's that it has by copy-on-write."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from alcove.state.entries import EntryType, Facts
from alcove.state.pairs import Pair, Pairs

#: As git tells text from the rest: a NUL among the first bytes.
_BINARY_WITHIN = 8000
_CHUNK = 1 << 20
#: Bytes read at most to find renames; a guest can make any number of huge sparse files.
_RENAME_BYTES = 1 << 30


class ChangeKind(StrEnum):
    """What happened to a path."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"


class Change(Struct, frozen=True):
    """One path that is not what it was; paths are bytes, relative to the directory.

    `before` is None for what was added, `after` for what was deleted; a renamed file was `old_path` before.
    `content_changed`: the bytes, or a link's target. `owner_changed` is relative to the owners of the two topmost
    directories, since ids on disk may be the session's own in one and the host's in the other.
    """

    kind: ChangeKind
    path: bytes
    before: Facts | None
    after: Facts | None
    old_path: bytes | None = None
    content_changed: bool = False
    owner_changed: bool = False
    binary: bool = False

    @property
    def type_changed(self) -> bool:
        """Whether another type of entry stands there now."""
        return self.before is not None and self.after is not None and self.before.type is not self.after.type

    @property
    def mode_changed(self) -> bool:
        """Whether permission, sticky or set-id bits differ; a symbolic link has none."""
        if self.before is None or self.after is None or self.after.type is EntryType.SYMLINK:
            return False
        return self.before.mode != self.after.mode


def changes(lower_fd: int, upper_fd: int) -> list[Change]:
    """What the upper directory of an overlay changes of the lower one: parents first, siblings by their bytes.

    Times and extended attributes are no changes, and neither is a file that was copied up and stayed as it was. A
    directory and what is in it are changes of their own; renames are found for files that stayed the same to the byte.
    Of a live upper directory this is what was met on the way.

    Raises:
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: something cannot be read, or there is too much of it.
    """
    return compared(lower_fd, upper_fd)[0]


def compared(lower_fd: int, upper_fd: int) -> tuple[list[Change], list[Pair]]:
    """The same, and what the upper directory has that is no change.

    Raises:
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: something cannot be read, or there is too much of it.
    """
    found: list[Change] = []
    alike: list[Pair] = []
    with Pairs(lower_fd, upper_fd) as pairs:
        owners = _owners(lower_fd, upper_fd)
        for pair in pairs:
            if (change := _change(pair, pairs, owners)) is not None:
                found.append(change)
            else:
                alike.append(pair)
    return _with_renames(found, lower_fd, upper_fd), alike


def _owners(lower_fd: int, upper_fd: int) -> tuple[os.stat_result, os.stat_result]:
    return os.fstat(lower_fd), os.fstat(upper_fd)


def _change(pair: Pair, pairs: Pairs, owners: tuple[os.stat_result, os.stat_result]) -> Change | None:
    before, after = pair.before, pair.after
    if before is None or after is None:
        kind = ChangeKind.ADDED if before is None else ChangeKind.DELETED
        return Change(kind, pair.path, before, after, content_changed=True, binary=_is_binary(pair, pairs))
    differ, binary = _contents(pair, pairs)
    change = Change(
        ChangeKind.MODIFIED,
        pair.path,
        before,
        after,
        content_changed=differ,
        owner_changed=_owner_changed(before, after, owners),
        binary=binary,
    )
    return change if differ or change.mode_changed or change.owner_changed else None


def _owner_changed(before: Facts, after: Facts, owners: tuple[os.stat_result, os.stat_result]) -> bool:
    lower, upper = owners
    return not (
        _same_id(before.uid, after.uid, lower.st_uid, upper.st_uid)
        and _same_id(before.gid, after.gid, lower.st_gid, upper.st_gid)
    )


def _same_id(before: int, after: int, lower: int, upper: int) -> bool:
    if before == lower or after == upper:
        return before == lower and after == upper
    return before == after


def _is_binary(pair: Pair, pairs: Pairs) -> bool:
    """Of a file that has one side only; what cannot be read is not said to be binary."""
    entry = pair.after or pair.before
    if entry is None or entry.type is not EntryType.FILE:
        return False
    try:
        fd = pairs.open_after() if pair.after else pairs.open_before()
    except OSError:
        return False
    with open(fd, "rb", buffering=0) as file:
        return b"\0" in file.read(_BINARY_WITHIN)


def _contents(pair: Pair, pairs: Pairs) -> tuple[bool, bool]:
    """Whether the contents differ, and whether one of them is binary."""
    before, after = pair.before, pair.after
    if before is None or after is None or before.type is not after.type:
        return True, _is_binary(pair, pairs)
    if before.type is not EntryType.FILE:
        return before.target != after.target, False
    try:
        old = pairs.open_before()
    except OSError:  # a file that its owner may not read either: what the guest has there counts as other
        return True, _is_binary(pair, pairs)
    with open(old, "rb", buffering=0) as lower, open(pairs.open_after(), "rb", buffering=0) as upper:
        a, b = lower.read(_CHUNK), upper.read(_CHUNK)
        binary = b"\0" in a[:_BINARY_WITHIN] or b"\0" in b[:_BINARY_WITHIN]
        if before.size != after.size:
            return True, binary
        while a == b and a:
            a, b = lower.read(_CHUNK), upper.read(_CHUNK)
        return a != b, binary


def _with_renames(found: list[Change], lower_fd: int, upper_fd: int) -> list[Change]:
    """The same, with each pair of a deleted and an added file that have the same bytes as one rename."""
    gone = _sizes(found, ChangeKind.DELETED)
    sizes = gone & _sizes(found, ChangeKind.ADDED)
    wanted = {change.path for change in found if _may_be_renamed(change) and _size(change) in sizes}
    if not wanted:
        return found
    deleted, added = _by_digest(found, _digests(wanted, lower_fd, upper_fd))
    origin: dict[bytes, Change] = {}
    for digest, arrived in added.items():
        origin.update(_matched(deleted[digest], arrived))
    moved = {change.path for change in origin.values()}
    return [
        _renamed(origin[change.path], change) if change.path in origin and change.kind is ChangeKind.ADDED else change
        for change in found
        if change.kind is not ChangeKind.DELETED or change.path not in moved
    ]


def _may_be_renamed(change: Change) -> bool:
    return change.kind in {ChangeKind.ADDED, ChangeKind.DELETED} and _size(change) > 0


def _size(change: Change) -> int:
    entry = change.after or change.before
    return entry.size if entry else 0


def _sizes(found: Iterable[Change], kind: ChangeKind) -> set[int]:
    # empty files are all the same, and none of them tells where it came from
    return {_size(change) for change in found if change.kind is kind} - {0}


def _digests(wanted: set[bytes], lower_fd: int, upper_fd: int) -> dict[bytes, bytes]:
    """The digests of files by path, by a second walk: while it is at a file, opening that takes one step."""
    digests = {}
    left = _RENAME_BYTES
    with Pairs(lower_fd, upper_fd) as pairs:
        for pair in pairs:
            entry = pair.after or pair.before
            if pair.path not in wanted or entry is None or entry.size > left:
                continue
            left -= entry.size
            try:
                fd = pairs.open_after() if pair.after else pairs.open_before()
            except OSError:
                continue
            with open(fd, "rb") as file:
                digests[pair.path] = hashlib.file_digest(file, "sha256").digest()
    return digests


_Found = defaultdict[bytes, list[Change]]


def _by_digest(found: Iterable[Change], digests: dict[bytes, bytes]) -> tuple[_Found, _Found]:
    deleted: _Found = defaultdict(list)
    added: _Found = defaultdict(list)
    for change in found:
        if (digest := digests.get(change.path)) is not None:
            (deleted if change.kind is ChangeKind.DELETED else added)[digest].append(change)
    return deleted, added


def _matched(deleted: list[Change], added: list[Change]) -> dict[bytes, Change]:
    """Where each added file came from: from one of the same name if there is one, else from any that is left."""
    by_name: _Found = defaultdict(list)
    for change in reversed(deleted):
        by_name[os.path.basename(change.path)].append(change)
    origin = {}
    others = []
    for change in added:
        if named := by_name[os.path.basename(change.path)]:
            origin[change.path] = named.pop()
        else:
            others.append(change)
    left = (change for changes_left in by_name.values() for change in reversed(changes_left))
    origin.update({change.path: old for change, old in zip(others, left, strict=False)})
    return origin


def _renamed(old: Change, new: Change) -> Change:
    return Change(ChangeKind.RENAMED, new.path, old.before, new.after, old_path=old.path, binary=new.binary)
