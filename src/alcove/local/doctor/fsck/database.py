"""The store's database: whether SQLite can read all of it, and a new one made of what it can."""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote

from alcove.contract import SandboxIoError
from alcove.local.doctor.fsck.report import Damage, unused
from alcove.local.removal import remove_tree
from alcove.local.store import Store

_NAME = "store.db"
_TABLES = ("sessions", "layers", "snapshots", "uses")
_BESIDE = ("-wal", "-shm")


def check(root: str, *, repair: bool) -> Iterator[Damage]:
    """Check the database before anything is read from it; with `repair`, while nobody else has the store open."""
    path = f"{root}/{_NAME}"
    if not os.path.exists(path) or not (fault := _fault(path)):
        return
    done = _salvaged(root, path) if repair else ""
    remedy = "" if done else "alcove doctor --store --repair"
    yield Damage(id="database", what=_NAME, fact=f"SQLite finds: {fault}", done=done, remedy=remedy)


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open it for reading; what has nothing to do with its content is no damage.

    Raises:
        SandboxIoError: it cannot be opened or read, or somebody has it locked.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)) as database:
            yield database
    except sqlite3.OperationalError as error:
        if _is_damage(error):
            raise
        raise SandboxIoError(f"{path} cannot be read: {error}; try again once that is mended") from None


def _is_damage(error: sqlite3.Error) -> bool:
    # SQLITE_ERROR: there is no such table. Text that is none has no code. The others are the disk's, or a lock's
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return not isinstance(error, sqlite3.OperationalError) or code == sqlite3.SQLITE_ERROR


def _fault(path: str) -> str:
    try:
        with _opened(path) as database:
            said = [str(row[0]) for row in database.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if said == ["ok"] else "; ".join(said)


def _salvaged(root: str, path: str) -> str:
    """Make another of the rows that can be read, whole before it takes the place of the old one, which is kept."""
    aside = f"{root}/salvage-{secrets.token_hex(4)}"
    try:
        with closing(Store(aside)) as saved, _opened(path) as old:
            counts = [f"{_copy(old, saved, table)} {table}" for table in _TABLES]
        kept = unused(root, f"{_NAME}-{time.strftime('%Y%m%d-%H%M%S')}")
        # there is a database at any moment: where there was none, ordinary use would make an empty one
        os.link(path, kept)
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{kept}{suffix}")
        os.rename(f"{aside}/{_NAME}", path)
    finally:
        remove_tree(aside)
    return f"made anew of what could be read ({', '.join(counts)}); the old one is {os.path.relpath(kept, root)}"


def _copy(old: sqlite3.Connection, saved: Store, table: str) -> int:
    columns = [row[1] for row in saved.rows(f"PRAGMA table_info({table})")]
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    # a page that cannot be read ends a walk: the other one comes from the end
    for order in ("ASC", "DESC"):
        try:
            for row in old.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]} {order}"):  # noqa: S608
                with suppress(sqlite3.IntegrityError):
                    saved.write(insert, tuple(row))
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
    count: int = saved.rows(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608
    return count
