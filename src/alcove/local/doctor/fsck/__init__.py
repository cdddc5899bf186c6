"""`alcove doctor --store`: what is wrong with the store, put right where that loses nothing.

What cannot be told whose it is goes to ROOT/lost and is never deleted. A check shares the store with everybody else; a
repair needs it for itself, and is refused with who has it. Sessions may run meanwhile: they belong to their wardens.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator

from alcove.contract import SandboxIoError
from alcove.local import host, native
from alcove.local.cell import cgroups
from alcove.local.config import LocalSandboxConfig
from alcove.local.doctor.fsck import database, layers, places, sessions
from alcove.local.doctor.fsck.report import Damage, Patient, StoreReport
from alcove.local.mounts.mounting import Mounter
from alcove.local.sessions import Sessions
from alcove.local.store import Store, claimed, default_root

__all__ = ["Damage", "StoreReport", "check_store"]


async def check_store(
    config: LocalSandboxConfig | None = None,
    *,
    repair: bool = False,
    verify: bool = False,
    looked: Callable[[int], None] | None = None,
) -> StoreReport:
    """Check the store of `config`; with `repair`, put right what can be; with `verify`, read every layer whole.

    `looked` is told how many files of layers were read.

    Raises:
        SandboxIoError: there is none, it cannot be opened, or others use it and it is to be repaired.
    """
    config = config or LocalSandboxConfig()
    root = config.root_dir or default_root()
    try:
        damages = [damage async for damage in _examine(config, root, repair=repair, verify=verify, looked=looked)]
    except OSError as error:
        raise SandboxIoError(f"the store {root} could not be checked: {error}") from None
    return StoreReport(root, not damages, repair, tuple(damages))


async def _examine(
    config: LocalSandboxConfig, root: str, *, repair: bool, verify: bool, looked: Callable[[int], None] | None
) -> AsyncIterator[Damage]:
    damages = _examine_closed(root, repair=repair)
    for damage in damages:
        yield damage
    if not repair and any(damage.id == "database" for damage in damages):
        return
    store = Store(root, exclusive=repair)
    try:
        patient = Patient(store, _sessions(config, store), repair, verify, looked)
        unreadable = list(sessions.check_rows(patient))
        for damage in unreadable:
            yield damage
        if all(damage.done for damage in unreadable):
            async for damage in _examine_open(patient):
                yield damage
    finally:
        store.close()


def _examine_closed(root: str, *, repair: bool) -> list[Damage]:
    """What is to be looked at before the store is opened, which would make it, give it its modes, or fail."""
    if not os.path.isdir(root):
        raise SandboxIoError(f"there is no store at {root}: ALCOVE_HOME says where, and the first session makes it")
    with claimed(root, exclusive=repair):
        return [*places.check_modes(root, repair=repair), *database.check(root, repair=repair)]


async def _examine_open(patient: Patient) -> AsyncIterator[Damage]:
    """In an order: what is somebody's is found out before what is nobody's is removed."""
    for damage in (*sessions.check_sealing(patient), *sessions.check_directories(patient)):
        yield damage
    async for damage in layers.check_directories(patient):
        yield damage
    for damage in _examine_rows(patient):
        yield damage
    async for damage in sessions.check_unmade(patient):
        yield damage
    for damage in await layers.check_unused(patient):
        yield damage
    async for damage in sessions.check_groups(patient, cgroups.detect()):
        yield damage
    if patient.verify:
        for damage in layers.check_contents(patient):
            yield damage


def _examine_rows(patient: Patient) -> Iterator[Damage]:
    for check in (layers.check_rows, layers.check_uses, sessions.check_slots, places.check_leftovers):
        yield from check(patient)


def _sessions(config: LocalSandboxConfig, store: Store) -> Sessions:
    launcher = config.native or str(native.find())
    facts = host.read(store.root, launcher)
    return Sessions(config, store, facts, launcher, Mounter(config, store.root, facts, launcher))
