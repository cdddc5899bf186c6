"""What the store takes of its disk, and who: `LocalSandbox.usage()` and `alcove df`."""

import os
from contextlib import suppress

from msgspec import Struct

from alcove.contract import SandboxSpec, from_json
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import disk_use, reserve
from alcove.local.disk.disk_use import DiskUse, Looked
from alcove.local.records import decode
from alcove.local.snapshots.layers import ENDING
from alcove.local.snapshots.snapshot_table import Layer, Snapshot, SnapshotTable
from alcove.local.store import Row, Store

_NOTHING = DiskUse(0)


class FileSystemUsage(Struct, frozen=True):
    """The store's file system, in bytes: `free` to others than root, of which Alcove leaves the `reserve` alone."""

    store: str
    total: int
    free: int
    reserve: int


class SessionUsage(Struct, frozen=True):
    """One session, in bytes on disk: its `own` files, and the layers below them that it may share with others.

    `limit` is what its guest may take of them at most, where `disk_mb` is enforced.
    `partly`: some directories could not be read, so that it has more than that.
    """

    id: str
    own: int
    below: int
    limit: int | None = None
    partly: bool = False


class LayerUsage(Struct, frozen=True):
    """One sealed layer: its bytes on disk, and who uses it: `session ID` or `snapshot ID`."""

    key: str
    bytes: int
    users: tuple[str, ...]


class SnapshotUsage(Struct, frozen=True):
    """One snapshot, in bytes on disk: all its layers, and those that nobody else uses, which its deletion frees."""

    id: str
    name: str | None
    bytes: int
    only: int


class StoreUsage(Struct, frozen=True):
    """What a store takes; `reclaimable` is in directories on their way out, which the next sweep removes."""

    file_system: FileSystemUsage
    sessions: tuple[SessionUsage, ...]
    snapshots: tuple[SnapshotUsage, ...]
    layers: tuple[LayerUsage, ...]
    reclaimable: int


def read(store: Store, config: LocalSandboxConfig, looked: Looked | None = None) -> StoreUsage:
    """Measure a store; `looked` is told how many entries were looked at."""
    table = SnapshotTable(store)
    rows = store.sessions()
    names = {f"session {row.key}": f"session {row.id}" for row in rows}
    known = table.layers()
    layers = {
        key: LayerUsage(key, _layer(store, layer, looked), tuple(names.get(user, user) for user in table.users(key)))
        for key, layer in known.items()
    }
    return StoreUsage(
        file_system=_file_system(store.root, config),
        sessions=tuple(_session(store, row, layers, looked) for row in rows),
        snapshots=tuple(_snapshot(snapshot, layers) for snapshot in table.all()),
        layers=tuple(layers.values()),
        reclaimable=_reclaimable(store.root, looked),
    )


def _file_system(root: str, config: LocalSandboxConfig) -> FileSystemUsage:
    found = os.statvfs(root)
    total = found.f_blocks * found.f_frsize
    return FileSystemUsage(root, total, found.f_bavail * found.f_frsize, reserve.size(config, total))


def _measured(path: str, looked: Looked | None) -> DiskUse:
    with suppress(OSError):  # it went meanwhile
        return disk_use.measure(path, looked)
    return _NOTHING


def _layer(store: Store, layer: Layer, looked: Looked | None) -> int:
    return _measured(store.layer(layer.key), looked).bytes if layer.allocated is None else layer.allocated


def _session(store: Store, row: Row, layers: dict[str, LayerUsage], looked: Looked | None) -> SessionUsage:
    own = _measured(store.directory(row.key), looked)
    spec, record = from_json(row.spec, SandboxSpec), decode(row.record)
    below = sum(layers[key].bytes for key in record.layers if key in layers)
    limit = spec.disk_mb << 20 if record.disk and spec.disk_mb else None
    return SessionUsage(row.id, own.bytes, below, limit, own.partly)


def _snapshot(snapshot: Snapshot, layers: dict[str, LayerUsage]) -> SnapshotUsage:
    own = [layers[key] for key in snapshot.layers if key in layers]
    only = [layer for layer in own if layer.users == (f"snapshot {snapshot.id}",)]
    return SnapshotUsage(
        snapshot.id, snapshot.name, sum(layer.bytes for layer in own), sum(layer.bytes for layer in only)
    )


def _reclaimable(root: str, looked: Looked | None) -> int:
    """Only what bears the mark of an end: what no row names besides can be somebody's, and no sweep removes it."""
    places = [f"{root}/{place}" for place in ("sessions", "layers")]
    ended = [f"{place}/{name}" for place in places for name in os.listdir(place) if name.endswith(ENDING)]
    return sum(_measured(path, looked).bytes for path in ended)
