"""The store: one directory and one SQLite file per user, shared by every process of that user.

    ROOT/store.db                 the sessions, one row each; tombstones for a day
    ROOT/sessions/KEY/            a session's files and sockets; KEY is ours, never the caller's id
    ROOT/layers/KEY/              what a snapshot sealed, shared by the sessions over it (SnapshotTable)
    ROOT/etc/DIGEST/              generated /etc files, shared by sessions
    ROOT/prepared/                /dev and /sys of every session
    ROOT/disks/                   empty images for sessions with `disk_mb` (alcove.local.disk.disk)

A session belongs to its warden, not to the process that made it: a row names the warden by pid and start time, and a
row whose warden is gone is a suspended session.
"""

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import Struct as Layout
from typing import Any
from weakref import finalize

from msgspec import Struct

from alcove.contract import InvalidRequest, SandboxIoError, SessionNotFound

#: Seconds for which a terminated id is remembered, and not given again.
TOMBSTONE_S = 86_400
#: Where the sessions of the host's root lie, unless told otherwise.
ROOT_STORE = "/var/lib/alcove"
_SCHEMA_VERSION = 3
# of linux/fs.h, for a directory
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x8008_6601, 0x4008_6602, 0x0002_0000
_FLAGS = Layout("=q")
# Rows lie in the order of their making, so that a new one writes the last page and splits no other; a day's tombstones
# are many, and neither a listing nor the sweep is to read them.
_SCHEMA = (
    """
CREATE TABLE sessions (
    id      TEXT NOT NULL UNIQUE,
    key     TEXT NOT NULL,        -- 64 random bits
    slot    INTEGER UNIQUE,       -- the uid range, for root
    spec    BLOB NOT NULL,        -- SandboxSpec as JSON, the policy in force included
    record  BLOB NOT NULL,        -- SessionRecord as JSON
    created REAL NOT NULL,
    ended   REAL                  -- NULL while the session is there
) STRICT
""",
    "CREATE INDEX sessions_by_end ON sessions (ended)",
)
_SNAPSHOTS = (
    """
CREATE TABLE layers (
    key       TEXT PRIMARY KEY,
    parts     TEXT NOT NULL,            -- what it has, as alcove.local.cell.parts names it, with blanks between
    covers    TEXT NOT NULL DEFAULT '', -- the layers, the lowest first, that this one stands for
    scanned   INTEGER NOT NULL DEFAULT 0,
    durable   INTEGER NOT NULL DEFAULT 0,
    digest    TEXT,                     -- of its tree, and with it:
    files     INTEGER,
    bytes     INTEGER,
    allocated INTEGER                   -- bytes on disk
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE snapshots (
    id      TEXT PRIMARY KEY,
    name    TEXT UNIQUE,
    session TEXT NOT NULL,
    parent  TEXT,
    root    TEXT NOT NULL,
    set_id  INTEGER NOT NULL,
    layers  TEXT NOT NULL,              -- the lowest first
    created REAL NOT NULL
) STRICT, WITHOUT ROWID
""",
    # a layer is there as long as anybody uses it (`SnapshotTable.users`)
    "CREATE TABLE uses (owner TEXT NOT NULL, layer TEXT NOT NULL, PRIMARY KEY (owner, layer)) STRICT, WITHOUT ROWID",
    "CREATE INDEX uses_by_layer ON uses (layer)",
)
# By the version before.
_MIGRATIONS = {
    0: (*_SCHEMA, *_SNAPSHOTS),
    1: (  # the rows are the same, in another order
        "ALTER TABLE sessions RENAME TO sessions_before",
        *_SCHEMA,
        "INSERT INTO sessions SELECT id, key, slot, spec, record, created, ended FROM sessions_before ORDER BY created",
        "DROP TABLE sessions_before",
    ),
    2: _SNAPSHOTS,
}
_SLOTS = 24_000
_BASE_ID = 0x2000_0000
_RANGE = 65_536
_BUSY_S = 10.0
_SWEEP_EVERY = 64
_MOST_TITLE = 100


class Row(Struct, frozen=True):
    """A session as the store has it; `base_id` is the first host id of its range, None for a plain user's."""

    id: str
    key: str
    base_id: int | None
    spec: bytes
    record: bytes
    created: float
    ended: float | None


def default_root() -> str:
    """`ALCOVE_HOME`, else /var/lib/alcove for root and the XDG data directory for others."""
    if home := os.environ.get("ALCOVE_HOME"):
        return os.path.abspath(home)
    if os.geteuid() == 0:
        return ROOT_STORE
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "alcove")


class Store:
    """An open store, shared with others unless it is to be `exclusive`, for as long as it is open.

    Raises:
        SandboxIoError: the directory cannot be made, is not ours alone, or has a schema of another version; another
            process has it for itself, or is in the way of having it so.
    """

    def __init__(self, root: str | None, *, exclusive: bool = False) -> None:
        self.root = root or default_root()
        self._ends = 0
        self._prepare_directories()
        self._claim = finalize(self, os.close, _claim(self.root, exclusive=exclusive))
        try:
            self._db = sqlite3.connect(
                f"{self.root}/store.db", timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._prepare_schema()
        except sqlite3.Error as error:
            raise SandboxIoError(f"cannot open the store {self.root}/store.db: {error}") from None

    def close(self) -> None:
        """Let go of the store."""
        self._db.close()
        self._claim()

    def directory(self, key: str) -> str:
        """The directory of the session that has `key`."""
        return f"{self.root}/sessions/{key}"

    def layer(self, key: str) -> str:
        """The directory of the layer that has `key`."""
        return f"{self.root}/layers/{key}"

    def _prepare_directories(self) -> None:
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            found = os.stat(self.root)
            if found.st_uid != os.geteuid():
                raise SandboxIoError(f"the store {self.root} belongs to uid {found.st_uid}; set ALCOVE_HOME to yours")
            if found.st_mode & 0o077:
                os.chmod(self.root, 0o700)
            for name in ("sessions", "layers", "etc", "prepared", "disks"):
                os.makedirs(f"{self.root}/{name}", mode=0o700, exist_ok=True)
            _spread(f"{self.root}/sessions")
        except OSError as error:
            raise SandboxIoError(
                f"cannot make the store {self.root}: {error.strerror}; set ALCOVE_HOME to a directory of yours"
            ) from None

    def _prepare_schema(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the last sessions' rows, never the file
        if self._version() == _SCHEMA_VERSION:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._migrate()
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _migrate(self) -> None:
        version = self._version()  # another process may have been first
        while version < _SCHEMA_VERSION:
            for statement in _MIGRATIONS[version]:
                self._db.execute(statement)
            version = version + 1 if version else _SCHEMA_VERSION
            self._db.execute(f"PRAGMA user_version={version}")
        if version > _SCHEMA_VERSION:
            raise SandboxIoError(
                f"the store {self.root} has schema {version}, this Alcove knows {_SCHEMA_VERSION}: upgrade Alcove"
            )

    def _version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        return version

    def reserve(self, session_id: str, key: str, spec: bytes, record: bytes, *, ranged: bool) -> Row:
        """Take an id (and a uid range) for a session that is about to be made.

        Raises:
            InvalidRequest: the id is in use, or was until less than a day ago.
        """
        now = time.time()
        for _ in range(64):
            slot = secrets.randbelow(_SLOTS) if ranged else None
            try:
                self.write(
                    "INSERT INTO sessions (id, key, slot, spec, record, created) VALUES (?, ?, ?, ?, ?, ?)",
                    (session_id, key, slot, spec, record, now),
                )
            except sqlite3.IntegrityError:
                self._refuse_taken(session_id, now)
                continue
            base = None if slot is None else _BASE_ID + slot * _RANGE
            return Row(id=session_id, key=key, base_id=base, spec=spec, record=record, created=now, ended=None)
        raise SandboxIoError(f"no free uid range in the store {self.root}: terminate some sessions")

    def _refuse_taken(self, session_id: str, now: float) -> None:
        row = self.find(session_id)
        if row is None:
            return
        if row.ended is None:
            raise InvalidRequest(f"session id `{session_id}` is in use")
        if now - row.ended < TOMBSTONE_S:
            raise InvalidRequest(f"session id `{session_id}` was terminated less than a day ago; choose another")
        self.forget(session_id)

    def save(self, session_id: str, *, record: bytes, spec: bytes | None = None) -> None:
        """Write what changed of a session.

        Raises:
            SandboxIoError: the disk is full, or has failed.
        """
        if spec is None:
            self.write("UPDATE sessions SET record = ? WHERE id = ?", (record, session_id))
        else:
            self.write("UPDATE sessions SET record = ?, spec = ? WHERE id = ?", (record, spec, session_id))

    def end(self, session_id: str) -> None:
        """Leave a tombstone, and free the uid range: nothing of the session may be left when this is called.

        Raises:
            SandboxIoError: the disk is full, or has failed; the next sweep does it.
        """
        now = time.time()
        self.write("UPDATE sessions SET ended = ?, slot = NULL WHERE id = ? AND ended IS NULL", (now, session_id))
        self._ends += 1
        if self._ends % _SWEEP_EVERY == 1:
            self.write("DELETE FROM sessions WHERE ended < ?", (now - TOMBSTONE_S,))

    def forget(self, session_id: str) -> None:
        """Take a row away whole.

        Raises:
            SandboxIoError: the disk is full, or has failed.
        """
        self.write("DELETE FROM sessions WHERE id = ?", (session_id,))

    def write(self, statement: str, parameters: tuple[object, ...]) -> None:
        """Execute one statement.

        Raises:
            SandboxIoError: the disk is full, or has failed.
        """
        try:
            self._db.execute(statement, parameters)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: sqlite3.Error) -> SandboxIoError:
        return SandboxIoError(f"the store {self.root} could not be written: {error}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do what is written inside together or not at all, as if nobody else were there; nothing inside may wait.

        Raises:
            SandboxIoError: the disk is full, or has failed.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._unwritable(error) from None
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise self._unwritable(error) from None
            raise

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """What is committed inside is on the disk when this ends, and with it all that was committed before.

        Raises:
            SandboxIoError: the disk is full, or has failed.
        """
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            with self.transaction():
                yield
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")

    def rows(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds.

        Raises:
            SandboxIoError: the disk has failed.
        """
        try:
            return self._db.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise SandboxIoError(
                f"the store {self.root} could not be read: {error}; `alcove doctor --store` tells what is wrong with it"
            ) from None

    def find(self, session_id: str) -> Row | None:
        """The row of an id, a tombstone too."""
        try:
            rows = self._select("WHERE id = ?", (session_id,))
        except UnicodeEncodeError:  # a lone surrogate, as in an argument that is no UTF-8: no id of ours has one
            return None
        return rows[0] if rows else None

    def live(self, session_id: str) -> Row:
        """The row of a session that is there.

        Raises:
            SessionNotFound: there is none, or it was terminated.
        """
        row = self.find(session_id)
        if row is None or row.ended is not None:
            raise SessionNotFound(session_id)
        return row

    def sessions(self, *, ended: bool = False) -> list[Row]:
        """Every session, the oldest first; with `ended`, tombstones too."""
        return self._select("" if ended else "WHERE ended IS NULL", ())

    def _select(self, where: str, parameters: tuple[str, ...]) -> list[Row]:
        query = f"SELECT id, key, slot, spec, record, created, ended FROM sessions {where} ORDER BY created"  # noqa: S608
        return [
            Row(row[0], row[1], None if row[2] is None else _BASE_ID + row[2] * _RANGE, *row[3:])
            for row in self.rows(query, parameters)
        ]


@contextmanager
def claimed(root: str, *, exclusive: bool) -> Iterator[None]:
    """Keep a store from being repaired, or with `exclusive` from any use, without opening it.

    Raises:
        SandboxIoError: somebody is in the way.
    """
    fd = _claim(root, exclusive=exclusive)
    try:
        yield
    finally:
        os.close(fd)


def _spread(directory: str) -> None:
    """Have ext4 not put the directories below side by side (chattr(1), T); another file system has no such thing.

    Without a journal it gives out no inode that was freed within the last minutes, and so walks past all of them in a
    part of the disk where many come and go: each session would be dearer than the last.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, _FLAGS.pack(0)))
            if not flags & _TOPDIR:
                fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack(flags | _TOPDIR))
    finally:
        os.close(fd)


def _claim(root: str, *, exclusive: bool) -> int:
    """A descriptor of the store's directory that keeps others from what excludes our use of it."""
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxIoError(f"cannot open the store {root}: {error.strerror}") from None
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        holders = ", ".join(_holders(os.fstat(fd))) or "another process"
        os.close(fd)
        doing = "is in use by" if exclusive else "is being repaired by"
        raise SandboxIoError(f"the store {root} {doing} {holders}: try again when that has ended") from None
    return fd


def _holders(directory: os.stat_result) -> Iterator[str]:
    """Who has locked a directory, as /proc/locks tells it."""
    place = f"{os.major(directory.st_dev):02x}:{os.minor(directory.st_dev):02x}:{directory.st_ino}"
    with open("/proc/locks") as file:
        pids = [fields[4] for line in file if (fields := line.split())[1] == "FLOCK" and fields[5] == place]
    for pid in dict.fromkeys(pids):
        title = ""
        with suppress(OSError), open(f"/proc/{pid}/cmdline", errors="replace") as file:
            title = file.read(_MOST_TITLE).replace("\0", " ").strip()
        yield f"pid {pid} ({title})" if title else f"pid {pid}"
