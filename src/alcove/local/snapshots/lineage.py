"""Where sessions and snapshots come from: each with its parent, as the store has them."""

import re
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from alcove.contract import SandboxSession, SandboxSnapshot
from alcove.local.sessions import Sessions, decoded
from alcove.local.snapshots.snapshots import Snapshots
from alcove.local.store import Row, Store

Kind = Literal["session", "snapshot"]

_OURS = re.compile(r"snap-[0-9a-f]{12}")


class LineageNode(Struct, frozen=True):
    """A session or a snapshot; `parent` is what its files were when it began, where that is known to be anything.

    A session's parent is the snapshot that it lies on, or the session that it was forked from; a snapshot's is what its
    session lay on when it was taken. A parent that was deleted or has ended is still named, as `parent_gone` tells.
    `created` is an ISO time; `bytes` is a snapshot's size, once it was counted.
    """

    kind: Kind
    id: str
    name: str | None
    parent_kind: Kind | None
    parent: str | None
    parent_gone: bool
    state: str | None
    created: str
    bytes: int | None


def lineage(store: Store, sessions: Sessions, snapshots: Snapshots) -> list[LineageNode]:
    """Every session that has not ended and every snapshot, the oldest first."""
    rows = [row for row in store.sessions() if sessions.is_whole(row)]
    kept = snapshots.all()
    there: dict[str, set[str]] = {"session": {row.id for row in rows}, "snapshot": {one.snapshot_id for one in kept}}
    found = [_of_session(row, sessions.view(row), there) for row in rows]
    found += [_of_snapshot(snapshot, there) for snapshot in kept]
    return sorted(found, key=lambda node: node.created)


def users(store: Store, sessions: Sessions, snapshots: Snapshots, reference: str) -> list[LineageNode]:
    """The sessions and the other snapshots that live on a snapshot: its topmost layer is one of theirs.

    Raises:
        InvalidRequest: there is no such snapshot.
    """
    snapshot = snapshots.find(reference)
    owners = {owner for key in snapshot.layers[-1:] for owner in sessions.layers.table.users(key)}
    keys = {row.id: row.key for row in store.sessions()}

    def uses(node: LineageNode) -> bool:
        owner = f"session {keys.get(node.id)}" if node.kind == "session" else f"snapshot {node.id}"
        return owner in owners - {f"snapshot {snapshot.id}"}

    return [node for node in lineage(store, sessions, snapshots) if uses(node)]


def _of_session(row: Row, session: SandboxSession, there: dict[str, set[str]]) -> LineageNode:
    kind, parent, gone = _parent(decoded(row)[1].parent, there)
    created = datetime.fromtimestamp(row.created, UTC).isoformat(timespec="milliseconds")
    return LineageNode("session", row.id, None, kind, parent, gone, str(session.state), created, None)


def _of_snapshot(snapshot: SandboxSnapshot, there: dict[str, set[str]]) -> LineageNode:
    told = snapshot.metadata
    kind, parent, gone = _parent(told["parent"], there)
    size = int(told["bytes"]) if "bytes" in told else None
    name = told.get("name")
    return LineageNode("snapshot", snapshot.snapshot_id, name, kind, parent, gone, None, told["created"], size)


def _parent(parent: str | None, there: dict[str, set[str]]) -> tuple[Kind | None, str | None, bool]:
    if not parent:
        return None, None, False
    kind: Kind = "snapshot" if _OURS.fullmatch(parent) or parent in there["snapshot"] else "session"
    return kind, parent, parent not in there[kind]
