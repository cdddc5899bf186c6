"""Layers and snapshots: each row with its directory and the other way round, who uses what, and what is in them."""

import os
from collections.abc import Iterable, Iterator

from alcove.contract import LifecycleError
from alcove.local.doctor.fsck.report import Damage, Patient, keep, kept_as
from alcove.local.sessions import decoded
from alcove.local.snapshots.layers import ENDING, claimed, is_exporting
from alcove.local.snapshots.snapshot_table import Layer

_DELETE = "alcove snapshots rm {}"


def check_directories(patient: Patient) -> Iterator[Damage]:
    """Find directories of layers without a row, but for those that somebody is making."""
    store = patient.store
    known = set(patient.sessions.layers.table.layers())
    known |= {record.sealing for row in store.sessions() if (record := decoded(row)[1]).sealing}
    for name in sorted(os.listdir(f"{store.root}/layers")):
        if name in known or name.endswith(ENDING):
            continue
        path = f"{store.root}/layers/{name}"
        with claimed(path) as ours:
            if not ours:
                continue
            done = keep(store.root, path, f"layer-{name}") if patient.repair else ""
        yield Damage(id="layer", what=path, fact="no snapshot and no session has it", done=done)


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
    wanted = {f"snapshot {snapshot.id}": snapshot.layers for snapshot in table.all()}
    wanted |= {f"session {row.key}": decoded(row)[1].layers for row in store.sessions()}
    known = table.layers()
    for owner, layers in wanted.items():
        have = {row[0] for row in store.rows("SELECT layer FROM uses WHERE owner = ?", (owner,))}
        missing = [key for key in layers if key not in have and key in known]
        if missing:
            if patient.repair:
                table.use(owner, missing)
            fact = f"uses the layers {', '.join(missing)}, and it is not written that it does"
            yield Damage(id="uses", what=owner, fact=fact, done="written down" if patient.repair else "")
        if absent := [key for key in layers if key not in known]:
            yield Damage(
                id="lost", what=owner, fact=f"the layers {', '.join(absent)} are not known", remedy=_remedy([owner])
            )
    for (owner,) in store.rows("SELECT DISTINCT owner FROM uses ORDER BY owner"):
        if owner not in wanted and not is_exporting(owner) and not _has_files(store.root, owner):
            if patient.repair:
                table.release(owner)
            done = "its layers are free" if patient.repair else ""
            yield Damage(id="uses", what=owner, fact="is gone, and still written down as a user of layers", done=done)


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
