"""Snapshots and layers as the store has them, and who uses which layer.

A layer is there as long as a snapshot or a session uses it. Who takes one into use, and who finds that nobody does, do
so in a transaction each: a layer that is being collected cannot be restored, and the other way round.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from alcove.contract import InvalidRequest
from alcove.local.store import Store

_LAYER = "key, parts, covers, scanned, durable, digest, files, bytes, allocated"
_SNAPSHOT = "id, name, session, parent, root, set_id, layers, created"


class Layer(Struct, frozen=True):
    """A sealed layer: the parts that it has, and what is known of its tree once it was looked through.

    `covers` are the layers, the lowest first, that it stands for. `bytes` are of files, `allocated` on disk.
    """

    key: str
    parts: tuple[str, ...]
    covers: tuple[str, ...] = ()
    scanned: bool = False
    durable: bool = False
    digest: str | None = None
    files: int | None = None
    bytes: int | None = None
    allocated: int | None = None


class Snapshot(Struct, frozen=True):
    """A snapshot: of which session, over which other, its layers from the lowest on; `root` is as on the session."""

    id: str
    name: str | None
    session: str
    parent: str | None
    root: str
    set_id: bool
    layers: tuple[str, ...]
    created: float


def passing_name(pid: int, started: int) -> str:
    """A name that nobody can give, for a snapshot that goes with who takes it (`SnapshotTable.passing`)."""
    return f":{pid}:{started}:{secrets.token_hex(6)}"


def is_passing(name: str | None) -> bool:
    """Whether a snapshot goes with who takes it, and so is nobody's parent."""
    return name is not None and name.startswith(":")


class SnapshotTable:
    """The tables of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Snapshots

    def find(self, reference: str) -> Snapshot | None:
        """The snapshot of an id, or else of a name."""
        try:
            found = self._snapshots("WHERE id = ? OR name = ? ORDER BY id <> ?", (reference,) * 3)
        except UnicodeEncodeError:  # a lone surrogate: nothing of ours has one
            return None
        return found[0] if found else None

    def all(self) -> list[Snapshot]:
        """Every snapshot, the oldest first, but those that a fork takes for itself."""
        return self._snapshots("WHERE name IS NULL OR substr(name, 1, 1) <> ':' ORDER BY created", ())

    def passing(self) -> list[tuple[str, int, int]]:
        """The snapshots that forks take for themselves, each with the pid and the start time of who forks."""
        found = self._snapshots("WHERE substr(name, 1, 1) = ':'", ())
        makers = [(one.id, (one.name or "").split(":")) for one in found]
        return [(snapshot_id, int(pid), int(started)) for snapshot_id, (_, pid, started, _) in makers]

    def _snapshots(self, rest: str, parameters: tuple[object, ...]) -> list[Snapshot]:
        rows = self._store.rows(f"SELECT {_SNAPSHOT} FROM snapshots {rest}", parameters)  # noqa: S608
        return [
            Snapshot(row[0], row[1], row[2], row[3], row[4], bool(row[5]), tuple(row[6].split()), row[7])
            for row in rows
        ]

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot, which uses its layers.

        Raises:
            InvalidRequest: its name is taken.
        """
        statement = f"INSERT INTO snapshots ({_SNAPSHOT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        self._named(statement, _values(snapshot), snapshot.name, of=snapshot.id)
        self.use(f"snapshot {snapshot.id}", snapshot.layers)

    def rename(self, snapshot_id: str, name: str | None) -> None:
        """Give a snapshot another name, or none.

        Raises:
            InvalidRequest: it is taken.
        """
        self._named("UPDATE snapshots SET name = ? WHERE id = ?", (name, snapshot_id), name, of=snapshot_id)

    def _named(self, statement: str, parameters: tuple[object, ...], name: str | None, *, of: str) -> None:
        taken = self.find(name) if name is not None else None
        if taken is not None and taken.id != of:
            raise InvalidRequest(f"snapshot `{taken.id}` has the name `{name}` already; choose another")
        try:
            self._store.write(statement, parameters)
        except sqlite3.IntegrityError:
            raise InvalidRequest(f"the name `{name}` is taken by another snapshot; choose another") from None

    def remove(self, snapshot_id: str) -> None:
        """Remove a snapshot; its layers stay as long as anybody else uses them."""
        self._store.write("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))
        self.release(f"snapshot {snapshot_id}")

    def replace_layers(self, snapshot_id: str, layers: Sequence[str]) -> None:
        """Let a snapshot have other layers that show the same."""
        self._store.write("UPDATE snapshots SET layers = ? WHERE id = ?", (" ".join(layers), snapshot_id))
        self.release(f"snapshot {snapshot_id}")
        self.use(f"snapshot {snapshot_id}", layers)

    # Uses

    def use(self, owner: str, layers: Iterable[str]) -> None:
        """Take layers into use; inside a transaction that has seen that they are there."""
        for key in layers:
            self._store.write("INSERT OR IGNORE INTO uses (owner, layer) VALUES (?, ?)", (owner, key))

    def release(self, owner: str) -> None:
        """Let go of all that `owner` uses."""
        self._store.write("DELETE FROM uses WHERE owner = ?", (owner,))

    def users(self, key: str) -> list[str]:
        """Who uses a layer: `session KEY`, `snapshot ID` or `export PID-START-TOKEN`."""
        return [row[0] for row in self._store.rows("SELECT owner FROM uses WHERE layer = ? ORDER BY owner", (key,))]

    def owners(self, kind: str) -> list[str]:
        """Every owner of uses whose name begins with `kind`."""
        found = self._store.rows("SELECT DISTINCT owner FROM uses WHERE substr(owner, 1, ?) = ?", (len(kind), kind))
        return [row[0] for row in found]

    # Layers

    def layers(self) -> dict[str, Layer]:
        """Every layer, by its key."""
        return {layer.key: layer for layer in self._layers("", ())}

    def layer(self, key: str) -> Layer | None:
        """One layer."""
        found = self._layers("WHERE key = ?", (key,))
        return found[0] if found else None

    def chain(self, keys: Sequence[str]) -> list[Layer]:
        """The layers of these keys, in this order; those that are not there any more are left out."""
        found = self._layers(f"WHERE key IN ({', '.join('?' * len(keys))})", tuple(keys)) if keys else []
        by_key = {layer.key: layer for layer in found}
        return [by_key[key] for key in keys if key in by_key]

    def covering(self, keys: tuple[str, ...]) -> list[Layer]:
        """The layers that stand for the lowest of these, those for most of them first."""
        found = self._layers("WHERE covers <> ''", ())
        fit = [layer for layer in found if len(keys) >= len(layer.covers) and keys[: len(layer.covers)] == layer.covers]
        return sorted(fit, key=lambda layer: len(layer.covers), reverse=True)

    def _layers(self, rest: str, parameters: tuple[object, ...]) -> list[Layer]:
        rows = self._store.rows(f"SELECT {_LAYER} FROM layers {rest}", parameters)  # noqa: S608
        return [
            Layer(row[0], tuple(row[1].split()), tuple(row[2].split()), bool(row[3]), bool(row[4]), *row[5:])
            for row in rows
        ]

    def add_layer(self, layer: Layer) -> None:
        """Add a layer whose directory is there whole; what is known of its tree comes later (`know`)."""
        self._store.write(
            "INSERT INTO layers (key, parts, covers, scanned) VALUES (?, ?, ?, ?)",
            (layer.key, " ".join(layer.parts), " ".join(layer.covers), layer.scanned),
        )

    def know(self, key: str, **facts: object) -> None:
        """Write what was found out about a layer, by the names of `Layer`."""
        names = ", ".join(f"{name} = ?" for name in facts)
        self._store.write(f"UPDATE layers SET {names} WHERE key = ?", (*facts.values(), key))  # noqa: S608

    def take_unused(self, first: Callable[[str], None]) -> list[str]:
        """Take the layers out of the store that nobody uses, `first` doing with each what must come before.

        Raises:
            OSError: that could not be done; nothing was taken.
        """
        with self._store.transaction():
            unused = "SELECT key FROM layers WHERE key NOT IN (SELECT layer FROM uses)"
            keys = [row[0] for row in self._store.rows(unused)]
            for key in keys:
                first(key)
                self._store.write("DELETE FROM layers WHERE key = ?", (key,))
        return keys


def _values(snapshot: Snapshot) -> tuple[Any, ...]:
    *fields, layers, created = structs.astuple(snapshot)
    return (*fields, " ".join(layers), created)
