"""What a check of the store answers, and what every part of it works with."""

import os
from collections.abc import Callable

from msgspec import Struct

from alcove.local.sessions import Sessions
from alcove.local.store import Store

#: Where what belongs to nobody is kept, below the store.
LOST = "lost"


class Damage(Struct, frozen=True, kw_only=True):
    """Something wrong with the store: what kind, of what, and what is the case.

    `done` is what was done about it, empty where nothing was. `remedy` is what a person can do.
    """

    id: str
    what: str
    fact: str
    done: str = ""
    remedy: str = ""


class StoreReport(Struct, frozen=True):
    """All that a check found; `ok`: nothing. `repaired`: it was to be repaired as far as that can be."""

    store: str
    ok: bool
    repaired: bool
    damages: tuple[Damage, ...]


class Patient(Struct, frozen=True):
    """An open store under examination."""

    store: Store
    sessions: Sessions
    repair: bool
    verify: bool = False
    looked: Callable[[int], None] | None = None


def kept_as(key: str) -> str:
    """Where below the store the files of a session are kept that has lost its row."""
    return f"{LOST}/session-{key}"


def keep(root: str, path: str, name: str) -> str:
    """Move something that nobody can be found for to where it is kept, and return what was done.

    Raises:
        OSError: it cannot be moved.
    """
    kept = unused(root, name)
    os.rename(path, kept)
    return f"moved to {os.path.relpath(kept, root)}"


def unused(root: str, name: str) -> str:
    """A path where something can be kept, by this name or one like it.

    Raises:
        OSError: there can be none.
    """
    directory = f"{root}/{LOST}"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    taken = set(os.listdir(directory))
    unique = next(each for each in (name, *(f"{name}.{n}" for n in range(1, len(taken) + 2))) if each not in taken)
    return f"{directory}/{unique}"
