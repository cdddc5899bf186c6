"""Writing a session's changes into the directory of the host's that they were made over."""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from msgspec import Struct

from alcove.contract import Conflict, SandboxIoError
from alcove.state.changes import Change, ChangeKind, compared
from alcove.state.entries import RESERVED, EntryType, Facts, Reach, facts, open_content
from alcove.state.fingerprints import DIGEST_BYTES, Fingerprint, Fingerprints, digest_of, fingerprint
from alcove.state.pairs import Pair
from alcove.state.placing import PERMISSIONS, ChangedMeanwhileError, Placing, sweep
from alcove.state.walk import shown

_MADE = frozenset({EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK})
# what goes wrong with one entry and will with the next
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OURS = re.compile(rb"(?:^|/)" + RESERVED.pattern + rb"(?:/|\Z)")
_REPOSITORY = re.compile(rb"(?:^|/)\.git(?:/|\Z)", re.IGNORECASE)
# Of what git keeps in a repository these are data. The rest (configuration, hooks, what leads to another repository,
# a rebase to be continued) names programs, which git on the host would run.
_GIT_DATA = re.compile(
    rb"(?:worktrees/[^/]+/)?"
    rb"(?:(?:objects|refs|logs|lfs/objects)/.+|[A-Z_]+|index|packed-refs|shallow|description|info/(?:exclude|refs))"
)


class Refusal(Struct, frozen=True):
    """A path that was not written, and why."""

    path: bytes
    reason: str


class Applied(Struct, frozen=True):
    """What came of applying.

    `conflicts` changed on the host meanwhile; `left` is not for the host, or could not be written there. `base` are the
    fingerprints to keep for the next time.
    """

    base: Fingerprints
    applied: tuple[Change, ...] = ()
    conflicts: tuple[Refusal, ...] = ()
    left: tuple[Refusal, ...] = ()


def apply(
    lower_fd: int,
    upper_fd: int,
    paths: Collection[bytes] | None = None,
    *,
    base: Fingerprints,
    keep: Callable[[Fingerprints], object] | None = None,
) -> Applied:
    """Write changes into the host's directory: all, or those at and beneath `paths`.

    Everything is compared with `base` first: where one chosen path changed on the host meanwhile, nothing is written,
    and each such path is named. What changes while writing is left as it is and named too. Directories that a chosen
    path lies in come with it, and a rename is one change. The session should be suspended or frozen.

    Each file is the old or the new one at any moment, kill -9 included, and applying again finishes the work: what is
    the same on both sides is what was meant, whoever wrote it. After an error `keep` is given the fingerprints of what
    was written before, without which the session's next change of that would seem to be over one of the host's. Owners
    stay: of what is replaced, else of the directory. Set-id bits, devices, FIFOs and sockets never arrive, extended
    attributes neither; times are those of the writing. What git would run is left unless `paths` names it itself.

    Raises:
        Conflict: somebody else is applying to this directory.
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: something cannot be read, or the file system refuses to be written; what was written stays.
    """
    with _alone(lower_fd):
        _clear(lower_fd, upper_fd)
        found, alike = compared(lower_fd, upper_fd)
        base = base.updated(_settled(found, alike, lower_fd, base))
        chosen, left = _chosen(found, paths)
        if conflicts := tuple(_conflicts(chosen, lower_fd, base)):
            return Applied(base, conflicts=conflicts, left=tuple(left))
        with Placing(lower_fd, upper_fd) as placing:
            run = _Run(placing, left)
            try:
                run.all(chosen)
            except BaseException:
                if keep is not None:
                    with suppress(SandboxIoError):  # what stopped the writing tells more
                        keep(run.outcome((), base).base)
                raise
        return run.outcome(chosen, base)


@contextmanager
def _alone(lower_fd: int) -> Iterator[None]:
    own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=lower_fd)
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict("somebody else is applying changes to this directory; try again when that is done") from None
    finally:
        os.close(own)


def _clear(lower_fd: int, upper_fd: int) -> None:
    try:
        sweep(lower_fd, upper_fd)
    except OSError as error:
        raise SandboxIoError(f"cannot read the directory to apply to: {error.strerror}") from None


def _settled(
    found: list[Change], alike: list[Pair], lower_fd: int, base: Fingerprints
) -> dict[bytes, Fingerprint | None]:
    """Fingerprints of what is the same on both sides now and was not: an apply that was killed left it so."""
    settled: dict[bytes, Fingerprint | None] = {}
    with Reach(lower_fd) as reach:
        same = [(pair.path, pair.before) for pair in alike]
        same += [(change.path, change.before) for change in found if _is_written(change)]
        for path, now in same:
            if now is not None and base.objection(path, now, partial(_digest, reach, path, now)) is not None:
                then = base.entries.get(path)
                # what lies in a directory that was exchanged stays doubtful
                early = now.is_directory and then is not None and then.early
                settled[path] = fingerprint(now, early=early)
    met = {path for change in found for path in (change.path, change.old_path)} | {pair.path for pair in alike}
    with Reach(lower_fd) as reach:
        for path in sorted(path for path, then in base.entries.items() if then is not None and path not in met):
            if _is_gone(reach, path):
                settled[path] = None
    return settled


def _is_written(change: Change) -> bool:
    """Whether the host has all that it would get: owners and set-id bits stay different."""
    before, after = change.before, change.after
    if change.content_changed or change.kind is not ChangeKind.MODIFIED or before is None or after is None:
        return False
    return not after.is_directory and before.mode == after.mode & PERMISSIONS


def _is_gone(reach: Reach, path: bytes) -> bool:
    try:
        parent, name = reach.parent(path)
        return facts(name, parent) is None
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)


def _chosen(found: list[Change], paths: Collection[bytes] | None) -> tuple[list[Change], list[Refusal]]:
    named = None if paths is None else {path.strip(b"/") for path in paths}
    if named is not None and named & {b"", b"."}:
        named = None
    wanted = {change.path for change in found if named is None or _is_named(change, named)}
    _add_parents(wanted, found)
    chosen, left = [], []
    for change in found:
        if change.path in wanted:
            if (reason := _not_for_the_host(change, paths or ())) is None:
                chosen.append(change)
            else:
                left.append(Refusal(change.path, reason))
    return chosen, left


def _is_named(change: Change, named: set[bytes]) -> bool:
    return any(not named.isdisjoint(_lineage(path)) for path in (change.path, change.old_path) if path is not None)


def _lineage(path: bytes) -> Iterator[bytes]:
    """A path and what it lies in, from the inside out."""
    while path:
        yield path
        path = os.path.dirname(path)


def _add_parents(wanted: set[bytes], found: list[Change]) -> None:
    made = {change.path for change in found if _makes_directory(change)}
    for change in found:
        if change.path in wanted and change.after is not None:
            parent = os.path.dirname(change.path)
            while parent in made and parent not in wanted:
                wanted.add(parent)
                parent = os.path.dirname(parent)


def _makes_directory(change: Change) -> bool:
    return _is_directory(change.after) and not _is_directory(change.before)


def _is_directory(entry: Facts | None) -> bool:
    return entry is not None and entry.is_directory


def _not_for_the_host(change: Change, paths: Collection[bytes]) -> str | None:
    after = change.after
    if after is None:
        return None
    if after.type not in _MADE:
        return f"a {after.type} is not made on the host"
    if _OURS.search(change.path):
        return "its name is one that applying itself uses"
    if not (change.content_changed or change.mode_changed or change.kind is ChangeKind.RENAMED):
        return "owners on the host stay"
    if _runs(change.path, after) and change.path not in paths:
        return "git on the host may run what it says; name this very path to apply it"
    return None


def _runs(path: bytes, after: Facts) -> bool:
    """Whether git on the host would find a program to run by it."""
    if after.is_directory or (found := _REPOSITORY.search(path)) is None:
        return False
    inside = path[found.end() :]
    return after.type is not EntryType.FILE or not _GIT_DATA.fullmatch(inside) or bool(_REPOSITORY.search(inside))


def _conflicts(chosen: list[Change], lower_fd: int, base: Fingerprints) -> Iterator[Refusal]:
    with Reach(lower_fd) as reach:
        for change in chosen:
            for path, now in _places(change):
                if _is_settled(change, path, base):
                    continue
                reason = base.objection(path, now, partial(_digest, reach, path, now))
                if reason is not None:
                    yield Refusal(path, reason)


def _places(change: Change) -> Iterator[tuple[bytes, Facts | None]]:
    """The paths that a change writes to, with what the host has there."""
    if change.old_path is None:
        yield change.path, change.before
    else:
        yield change.old_path, change.before
        yield change.path, None


def _is_settled(change: Change, path: bytes, base: Fingerprints) -> bool:
    """Whether it became a directory already: an earlier attempt came so far, and its mode is nothing to lose."""
    then = base.entries.get(path)
    both = _is_directory(change.before) and _is_directory(change.after)
    return both and (then is None or then.type is not EntryType.DIRECTORY)


def _digest(reach: Reach, path: bytes, now: Facts | None) -> bytes | None:
    if now is None or now.size > DIGEST_BYTES:
        return None
    try:
        parent, name = reach.parent(path)
        return digest_of(open_content(name, parent, lend=False))
    except OSError:
        return None


class _Run:
    """One application under way."""

    def __init__(self, placing: Placing, left: list[Refusal]) -> None:
        self._placing = placing
        self._left = left
        self._conflicts: list[Refusal] = []
        self._refused: set[bytes] = set()
        self._entries: dict[bytes, Fingerprint | None] = {}

    def outcome(self, chosen: Iterable[Change], base: Fingerprints) -> Applied:
        return Applied(
            base.updated(self._entries),
            tuple(change for change in chosen if change.path not in self._refused),
            tuple(self._conflicts),
            tuple(self._left),
        )

    def all(self, chosen: list[Change]) -> None:
        """What is new before what goes, so that a renamed file is always somewhere; modes of directories last."""
        for change in chosen:
            self._attempt(change, self._bring)
        for change in reversed(chosen):
            self._attempt(change, self._take_away)
        for change in reversed(chosen):
            self._attempt(change, self._close)

    def _attempt(self, change: Change, step: Callable[[Change], None]) -> None:
        if change.path in self._refused:
            return
        try:
            step(change)
        except ChangedMeanwhileError as error:
            self._refuse(self._conflicts, change, str(error))
        except (FileNotFoundError, NotADirectoryError):
            self._refuse(self._conflicts, change, "it, or the directory that it lies in, is not there any more")
        except OSError as error:
            if error.errno in _HOPELESS:
                raise SandboxIoError(
                    f"cannot write {shown(change.path)}: {error.strerror}; what was written before it stays, "
                    "apply again once that is mended"
                ) from None
            self._refuse(self._left, change, f"it cannot be written: {error.strerror}")

    def _refuse(self, refusals: list[Refusal], change: Change, reason: str) -> None:
        self._refused.add(change.path)
        refusals.append(Refusal(change.path, reason))

    def _bring(self, change: Change) -> None:
        after = change.after
        if after is None:
            return
        if _is_directory(change.before):
            # rights that are needed to write in it come first; others could be what is needed until the end
            if after.is_directory and after.mode & stat.S_IRWXU == stat.S_IRWXU:
                self._close(change)
        elif change.content_changed or change.kind is ChangeKind.RENAMED:
            self._entries[change.path] = self._placing.put(change, after)
        else:
            self._entries[change.path] = self._placing.set_mode(change, after)

    def _take_away(self, change: Change) -> None:
        gone = change.old_path or change.path
        if change.after is None or change.old_path is not None:
            self._placing.remove(gone, change.before)
            self._entries[gone] = None
        elif _is_directory(change.before) and not change.after.is_directory:
            self._entries[change.path] = self._placing.put(change, change.after)

    def _close(self, change: Change) -> None:
        after = change.after
        if after is not None and after.is_directory and (change.mode_changed or not _is_directory(change.before)):
            self._entries[change.path] = self._placing.set_mode(change, after)
