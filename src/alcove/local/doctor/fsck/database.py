"""The store's database: whether SQLite can read all of it, and a new one made of what it can."""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import quote

from alcove.local.doctor.fsck.report import Damage, keep
from alcove.local.removal import remove_tree
from alcove.local.store import Store

_NAME = "store.db"
_TABLES = ("sessions", "layers", "snapshots", "uses")
_BESIDE = ("", "-wal", "-shm")


def check(root: str, *, repair: bool) -> Iterator[Damage]:
    """Check the database before anything is read from it; with `repair`, while nobody else has the store open."""
    path = f"{root}/{_NAME}"
    if not os.path.exists(path) or not (fault := _fault(path)):
        return
    done = _salvaged(root, path) if repair else ""
    remedy = "" if done else "alcove doctor --store --repair"
    yield Damage(id="database", what=_NAME, fact=f"SQLite finds: {fault}", done=done, remedy=remedy)


def _open(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)


def _fault(path: str) -> str:
    try:
        with closing(_open(path)) as database:
            said = [str(row[0]) for row in database.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if said == ["ok"] else "; ".join(said)


def _salvaged(root: str, path: str) -> str:
    """Make another of the rows that can be read, whole before it takes the place of the old one, which is kept."""
    aside = f"{root}/salvage-{secrets.token_hex(4)}"
    try:
        saved = Store(aside)
        with closing(_open(path)) as old:
            counts = [f"{_copy(old, saved, table)} {table}" for table in _TABLES]
        saved.close()
        name = f"{_NAME}-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                keep(root, f"{path}{suffix}", f"{name}{suffix}")
        os.rename(f"{aside}/{_NAME}", path)
    finally:
        remove_tree(aside)
    return f"made anew of what could be read ({', '.join(counts)}); the old one is lost/{name}"


def _copy(old: sqlite3.Connection, saved: Store, table: str) -> int:
    columns = [row[1] for row in saved.rows(f"PRAGMA table_info({table})")]
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    # a page that cannot be read ends a walk: the other one comes from the end
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            for row in old.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]} {order}"):  # noqa: S608
                with suppress(sqlite3.IntegrityError):
                    saved.write(insert, tuple(row))
    count: int = saved.rows(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608
    return count
