"""Sessions: each row with its directory and the other way round, and nothing half done that nobody goes on with."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from msgspec import MsgspecError
from msgspec.json import encode
from msgspec.structs import replace

from alcove.contract import JsonError, LifecycleError
from alcove.local import records
from alcove.local.cell import cgroups, processes
from alcove.local.cell.cgroups import Groups
from alcove.local.doctor.fsck.report import Damage, Patient, keep, unused
from alcove.local.locking import try_exclusively
from alcove.local.records import Record
from alcove.local.sessions import ENDING, decoded
from alcove.local.snapshots import sealing
from alcove.local.store import Row
from alcove.local.sweeping import sweep


def check_rows(patient: Patient) -> Iterator[Damage]:
    """Find rows that cannot be read; while one is there, nothing that lists sessions works."""
    for row in patient.store.sessions(ended=True):
        try:
            decoded(row)
        except (MsgspecError, JsonError) as error:
            what, fact = f"session {row.id}", f"its row cannot be read: {error}"
            if running := _running(row.key):
                yield _left_alone("row", what, fact, running)
                continue
            done = _set_aside(patient, row) if patient.repair else ""
            yield Damage(id="row", what=what, fact=fact, done=done)


def _left_alone(kind: str, what: str, fact: str, running: list[int]) -> Damage:
    fact += f", and processes of it run: {', '.join(map(str, running))}"
    return Damage(id=kind, what=what, fact=fact, remedy=f"kill {running[0]}, then check again")


def _set_aside(patient: Patient, row: Row) -> str:
    store = patient.store
    done = "its row"
    with open(unused(store.root, f"session-{row.key}.row"), "xb") as file:
        file.write(encode({**_texts(row), "spec": row.spec, "record": row.record}))
    if os.path.isdir(store.directory(row.key)):
        keep(store.root, store.directory(row.key), f"session-{row.key}")
        done = "its row and its files"
    store.forget(row.id)
    return f"{done} moved to lost/session-{row.key}"


def _texts(row: Row) -> dict[str, object]:
    return {"id": row.id, "key": row.key, "base_id": row.base_id, "created": row.created, "ended": row.ended}


def check_sealing(patient: Patient) -> Iterator[Damage]:
    """Find sessions whose files were on their way into a layer when the one who moved them was killed."""
    store = patient.store
    for row in store.sessions():
        record = decoded(row)[1]
        if record.sealing is None or _is_held(store.directory(row.key)):
            continue
        done = _unsealed(patient, row, record, record.sealing) if patient.repair else ""
        yield Damage(id="sealing", what=f"session {row.id}", fact="a snapshot of it was not finished", done=done)


def _unsealed(patient: Patient, row: Row, record: Record, key: str) -> str:
    store = patient.store
    whole = sealing.move_back(store.directory(row.key), store.layer(key))
    store.save(row.id, record=records.encode(replace(record, sealing=None)))
    if whole:
        patient.sessions.layers.remove(key)
        return "its files are its own again"
    done = keep(store.root, store.layer(key), f"layer-{key}")
    return f"its files are its own again, but for those in whose place it has others: {done}"


def _is_held(path: str) -> bool:
    """Whether somebody has a directory for himself, or took it away just now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    try:
        return not try_exclusively(fd)
    finally:
        os.close(fd)


def check_directories(patient: Patient) -> Iterator[Damage]:
    """Find directories of sessions without a row: the newest rows are what a power cut takes."""
    store = patient.store
    names = sorted(os.listdir(f"{store.root}/sessions"))
    known = {row.key for row in store.sessions()}  # read last: who makes a session writes its row first
    for name in names:
        path = f"{store.root}/sessions/{name}"
        if (os.path.isdir(path) and (name in known or name.endswith(ENDING))) or _is_held(path):
            continue
        if running := _running(name):
            yield _left_alone("directory", path, "no session has it", running)
            continue
        done = keep(store.root, path, f"session-{name}") if patient.repair else ""
        yield Damage(id="directory", what=path, fact="no session has it", done=done)


def _running(key: str) -> list[int]:
    """The native processes that bear a session's key in their titles, the warden first."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read(200).rstrip(b"\0")
            if title.startswith(b"alcove-") and title.endswith(f" {key}".encode()):
                found.append((not title.startswith(b"alcove-warden"), int(pid)))
    return [pid for _, pid in sorted(found)]


async def check_unmade(patient: Patient) -> AsyncIterator[Damage]:
    """Find sessions that nobody goes on making or removing, and what is left of ended ones."""
    store = patient.store
    unmade = [row for row in store.sessions() if patient.sessions.unmade(row)]
    endings = _endings(store.root)
    if patient.repair and (unmade or endings):
        with suppress(LifecycleError):  # told below
            await sweep(patient.store, patient.sessions)
    for row in unmade:
        done = "removed" if _is_gone(patient, row) else ""
        yield Damage(id="unmade", what=f"session {row.id}", fact="was left half made, or half removed", done=done)
    for path in endings:
        done = "" if path in _endings(store.root) else "removed"
        yield Damage(id="ending", what=path, fact="is left of what has ended", done=done)


def _endings(root: str) -> list[str]:
    names = [f"{place}/{name}" for place in ("sessions", "layers") for name in os.listdir(f"{root}/{place}")]
    ending = [name for name in names if name.endswith(ENDING) and os.path.isdir(f"{root}/{name}")]
    return sorted(name for name in ending if not _is_held(f"{root}/{name}"))


def _is_gone(patient: Patient, row: Row) -> bool:
    found = patient.store.find(row.id)
    return found is None or found.ended is not None


def check_slots(patient: Patient) -> Iterator[Damage]:
    """Find ended sessions that still hold a range of ids."""
    held = patient.store.rows("SELECT id FROM sessions WHERE ended IS NOT NULL AND slot IS NOT NULL ORDER BY id")
    for (name,) in held:
        if patient.repair:
            patient.store.write("UPDATE sessions SET slot = NULL WHERE id = ?", (name,))
        fact = "has ended, and holds its range of ids"
        yield Damage(id="slot", what=f"session {name}", fact=fact, done="freed" if patient.repair else "")


async def check_groups(patient: Patient, hierarchies: cgroups.Hierarchies) -> AsyncIterator[Damage]:
    """Find groups of ended sessions, with or without processes."""
    for row in patient.store.sessions(ended=True):
        groups = cgroups.every(hierarchies, row.key)
        left = _present(groups)
        if row.ended is None or not left:
            continue
        done = await _ended(groups) if patient.repair else ""
        fact = f"has ended, and its group {left[0]} is there"
        yield Damage(id="group", what=f"session {row.id}", fact=fact, done=done)


def _present(groups: Groups) -> list[str]:
    return [path for path in groups.directories() if os.path.isdir(path)]


async def _ended(groups: Groups) -> str:
    try:
        await processes.stop(None, groups)
        cgroups.remove(groups)
    except (LifecycleError, OSError):
        return ""
    return "removed, with every process in it"
