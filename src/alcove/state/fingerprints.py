"""What a directory of the host's looked like when a session began with it, to tell what changed there meanwhile."""

import hashlib
from collections.abc import Callable

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from alcove.state.entries import EntryType, Facts
from alcove.state.pairs import Pair, Pairs

#: Files up to this size are known by their content too, so that writing the same into one again is no change.
DIGEST_BYTES = 8 << 20


class Fingerprint(Struct, frozen=True, array_like=True):
    """An entry as it was; `digest` is the SHA-256 of a small file, `early`: it had changed before the first look."""

    type: EntryType
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    target: bytes | None = None
    digest: bytes | None = None
    early: bool = False


class Fingerprints(Struct, frozen=True):
    """What lay at each path; None: nothing did.

    With `whole`, a path that is not among them had nothing either; otherwise it was not looked at. `began_ns` is when
    the session began, in nanoseconds since the epoch, None where nobody knows.
    """

    entries: dict[bytes, Fingerprint | None]
    whole: bool = False
    began_ns: int | None = None

    def objection(self, path: bytes, now: Facts | None, digest: Callable[[], bytes | None]) -> str | None:
        """Why `path`, where `now` lies, is not what it was; None: it is. `digest` reads what is there in doubt."""
        then = self.entries.get(path)
        if then is None:
            return None if now is None else self._new(path, now)
        if then.early:
            return "it changed on the host after the session began"
        if now is None:
            return "it was removed on the host meanwhile"
        if then.type is not now.type:
            return f"it became a {now.type} on the host meanwhile"
        if _same(then, now) or _same_content(then, now, digest):
            return None
        return "it changed on the host meanwhile"

    def _new(self, path: bytes, now: Facts) -> str | None:
        if self.whole or path in self.entries:
            return "it was made on the host meanwhile"
        if self.began_ns is None:
            return "nobody looked at it before; look at the changes first"
        if now.is_directory or now.ctime_ns <= self.began_ns:
            return None
        return "it changed on the host after the session began"

    def updated(self, entries: dict[bytes, Fingerprint | None]) -> "Fingerprints":
        """The same, but for what is known to be there now."""
        return replace(self, entries={**self.entries, **entries})


encode = Encoder().encode
decode = Decoder(Fingerprints).decode


def fingerprints(
    lower_fd: int,
    upper_fd: int | None = None,
    *,
    known: Fingerprints | None = None,
    began_ns: int | None = None,
) -> Fingerprints:
    """Look at the host's directory: at all of it, or with `upper_fd` at what the session changed so far.

    The first costs a walk when the session begins and misses nothing. The second can be done at every look at the
    changes: `known` is what the look before returned, and stays as it is. What the host did between the beginning and
    the first look shows by times later than `began_ns`; a file that it removed then does not. A directory that it moved
    there brings files with their old times: everything in one that is another, or may be, counts as changed.

    Without `known` and `began_ns` this takes what is there now for what was there: the way to insist on applying.

    Raises:
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: a directory cannot be read.
    """
    if known is not None and known.whole:
        return known
    began_ns = known.began_ns if known is not None else began_ns
    entries = dict(known.entries) if known is not None else {}
    moved: bytes | None = None
    with Pairs(lower_fd, upper_fd) as pairs:
        for pair in pairs:
            if moved is None or not pair.path.startswith(moved + b"/"):
                moved = pair.path if _is_moved(pair.before, entries.get(pair.path), began_ns) else None
            if pair.path not in entries:
                entries[pair.path] = _fingerprint(pair, pairs, began_ns, moved=moved is not None)
    return Fingerprints(entries, whole=upper_fd is None, began_ns=began_ns)


def fingerprint(entry: Facts, digest: bytes | None = None, *, early: bool = False) -> Fingerprint:
    """An entry's fingerprint, from what is known of it."""
    return Fingerprint(
        entry.type,
        entry.mode,
        entry.size,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.inode,
        target=entry.target,
        digest=digest,
        early=early,
    )


def digest_of(fd: int) -> bytes:
    """The digest of an open file, which is closed then."""
    with open(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _is_moved(now: Facts | None, then: Fingerprint | None, began_ns: int | None) -> bool:
    """Whether the host put another directory there since it was looked at, or since the session began."""
    if now is None or not now.is_directory:
        return False
    if then is not None and then.type is EntryType.DIRECTORY:
        return then.early or then.inode != now.inode
    # a rename changes this time alone, as a new mode does; a name that comes or goes changes both
    return began_ns is not None and now.ctime_ns > max(began_ns, now.mtime_ns)


def _fingerprint(pair: Pair, pairs: Pairs, began_ns: int | None, *, moved: bool) -> Fingerprint | None:
    before = pair.before
    if before is None:
        return None
    # a directory's times tell of what is in it, which has fingerprints of its own
    early = began_ns is not None and before.ctime_ns > began_ns and not before.is_directory
    return fingerprint(before, _digest(pair, pairs), early=early or moved)


def _digest(pair: Pair, pairs: Pairs) -> bytes | None:
    """Of a file for which a doubt can arise: one that was changed, or whose other names change its times."""
    before = pair.before
    if before is None or before.type is not EntryType.FILE or before.size > DIGEST_BYTES:
        return None
    if pair.after is None and before.links == 1:
        return None
    try:
        return digest_of(pairs.open_before())
    except OSError:
        return None


def _same(then: Fingerprint, now: Facts) -> bool:
    if now.type is EntryType.DIRECTORY:
        return then.mode == now.mode
    if now.type is EntryType.SYMLINK:
        return then.target == now.target
    return (then.mode, then.size, then.mtime_ns, then.ctime_ns, then.inode) == (
        now.mode,
        now.size,
        now.mtime_ns,
        now.ctime_ns,
        now.inode,
    )


def _same_content(then: Fingerprint, now: Facts, digest: Callable[[], bytes | None]) -> bool:
    if now.type is not EntryType.FILE or then.digest is None or (then.mode, then.size) != (now.mode, now.size):
        return False
    return digest() == then.digest
