"""Layers and snapshots: each row with its directory and the other way round, who uses what, and what is in them."""

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from alcove.contract import LifecycleError
from alcove.local.doctor.fsck.report import Damage, Patient, keep, kept_as
from alcove.local.sessions import decoded
from alcove.local.snapshots.layers import ENDING, claimed, is_exporting
from alcove.local.snapshots.snapshot_table import Layer
from alcove.local.store import Row
from alcove.local.sweeping import give_back

_DELETE = "alcove snapshots rm {}"


async def check_directories(patient: Patient) -> AsyncIterator[Damage]:
    """Find directories of layers without a row, but for those that somebody is making."""
    for name in _unknown(patient):
        path = f"{patient.store.root}/layers/{name}"
        with _claimed(path) as ours:
            # under the lock once more: it may have been sealed since the names were read
            if not ours or not _is_stray(patient, name):
                continue
            damage = await _stray(patient, name, path)
        yield damage


def _unknown(patient: Patient) -> list[str]:
    store = patient.store
    names = sorted(os.listdir(f"{store.root}/layers"))
    moving = {record.sealing for row in store.sessions() if (record := decoded(row)[1]).sealing}
    return [name for name in names if name not in moving and _is_stray(patient, name)]


def _is_stray(patient: Patient, name: str) -> bool:
    known = name.endswith(ENDING) or patient.sessions.layers.table.layer(name) is not None
    return not (known and os.path.isdir(patient.store.layer(name)))


def _claimed(path: str) -> AbstractContextManager[bool]:
    """As `claimed`; what is no directory is nobody's."""
    found = os.path.isdir(path) and not os.path.islink(path)
    return claimed(path) if found else nullcontext(os.path.lexists(path))


async def _stray(patient: Patient, name: str, path: str) -> Damage:
    """What was renamed out of a session is the only copy of its files: a power cut took the row that says so."""
    known = patient.sessions.layers
    row = _session(patient, known.owner(name))
    if row is None:
        done = keep(patient.store.root, path, f"layer-{name}") if patient.repair else ""
        return Damage(id="layer", what=path, fact="no snapshot and no session has it", done=done)
    if not patient.repair:
        done = ""
    elif await give_back(patient.store, patient.sessions, row.key, name):
        known.remove(name)
        done = "given back to it"
    else:
        done = f"{keep(patient.store.root, path, f'layer-{name}')}: it runs, or has others in their place"
    return Damage(id="layer", what=path, fact=f"files of session {row.id} are in it, and it is no layer", done=done)


def _session(patient: Patient, key: str | None) -> Row | None:
    return next((row for row in patient.store.sessions() if row.key == key), None)


def check_rows(patient: Patient) -> Iterator[Damage]:
    """Find layers whose directory, or one of whose parts, is gone, and who lacks them: nothing brings that back."""
    table = patient.sessions.layers.table
    for layer in table.layers().values():
        directory = patient.store.layer(layer.key)
        lost = [name for name in layer.parts if not os.path.isdir(f"{directory}/{name}")]
        if not lost and os.path.isdir(directory):
            continue
        users = table.users(layer.key)
        if not users and patient.repair:
            patient.store.write("DELETE FROM layers WHERE key = ?", (layer.key,))
        yield Damage(
            id="lost",
            what=f"layer {layer.key}",
            fact=f"{'its directory' if not os.path.isdir(directory) else ', '.join(lost)} is gone",
            done="forgotten: nobody uses it" if patient.repair and not users else "",
            remedy=_remedy(users),
        )


def _remedy(users: Iterable[str]) -> str:
    names = [name for kind, _, name in (user.partition(" ") for user in users) if kind == "snapshot"]
    return _DELETE.format(" ".join(names)) if names else ""


def check_uses(patient: Patient) -> Iterator[Damage]:
    """Find who uses a layer without being told of, which would let it be collected, then who is told of and gone."""
    store, table = patient.store, patient.sessions.layers.table
    with store.transaction():  # of one moment: who takes a layer into use writes both at once
        wanted = _wanted(patient)
        known = table.layers()
        uses = set(store.rows("SELECT owner, layer FROM uses"))
    for owner, layers in wanted.items():
        missing = [key for key in layers if (owner, key) not in uses and key in known]
        if missing:
            if patient.repair:
                table.use(owner, missing)
            fact = f"uses the layers {', '.join(missing)}, and it is not written that it does"
            yield Damage(id="uses", what=owner, fact=fact, done="written down" if patient.repair else "")
        if absent := [key for key in layers if key not in known]:
            yield Damage(
                id="lost", what=owner, fact=f"the layers {', '.join(absent)} are not known", remedy=_remedy([owner])
            )
    for owner in sorted({owner for owner, _ in uses}):
        if owner not in wanted and not is_exporting(owner) and not _has_files(store.root, owner):
            if patient.repair:
                table.release(owner)
            done = "its layers are free" if patient.repair else ""
            yield Damage(id="uses", what=owner, fact="is gone, and still written down as a user of layers", done=done)


def _wanted(patient: Patient) -> dict[str, tuple[str, ...]]:
    """Who uses layers, and which."""
    table = patient.sessions.layers.table
    passing = [found for name, _, _ in table.passing() if (found := table.find(name))]
    wanted = {f"snapshot {snapshot.id}": snapshot.layers for snapshot in (*table.all(), *passing)}
    return wanted | {f"session {row.key}": decoded(row)[1].layers for row in patient.store.sessions()}


def _has_files(root: str, owner: str) -> bool:
    """Whether files of a session that has no row any more are there, and need what lies below them."""
    kind, _, key = owner.partition(" ")
    return kind == "session" and any(os.path.isdir(f"{root}/{name}") for name in (f"sessions/{key}", kept_as(key)))


async def check_unused(patient: Patient) -> list[Damage]:
    """Find layers that nobody uses: what ordinary use removes at once."""
    unused = patient.store.rows("SELECT key FROM layers WHERE key NOT IN (SELECT layer FROM uses) ORDER BY key")
    if patient.repair:
        await patient.sessions.layers.collect()
    done = "removed" if patient.repair else ""
    return [Damage(id="unused", what=f"layer {key}", fact="nobody uses it", done=done) for (key,) in unused]


def check_contents(patient: Patient) -> Iterator[Damage]:
    """Read every layer whose digest is known, and find those that are not what was sealed."""
    from alcove.state.tree import digest

    for layer in patient.sessions.layers.table.layers().values():
        directory = patient.store.layer(layer.key)
        if layer.digest is None or not os.path.isdir(directory):
            continue  # its upkeep is still to come, or it was told as lost
        what = f"layer {layer.key}"
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = digest(fd)
        except (OSError, LifecycleError) as error:
            yield Damage(id="unreadable", what=what, fact=str(error), remedy=_of(patient, layer))
            continue
        finally:
            os.close(fd)
        if patient.looked is not None:
            patient.looked(layer.files or 0)
        if layer.digest != found:
            fact = f"is not what was sealed: {found} instead of {layer.digest}"
            yield Damage(id="changed", what=what, fact=fact, remedy=_of(patient, layer))


def _of(patient: Patient, layer: Layer) -> str:
    return _remedy(patient.sessions.layers.table.users(layer.key))
