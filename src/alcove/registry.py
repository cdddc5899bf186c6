"""Backends by name: ours in a table, those of other packages by the entry-point group `alcove.backends`.

Nothing is imported before it is asked for, and naming one of ours reads no package metadata. A name of ours cannot be
taken over by an entry point.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from alcove.contract.errors import InvalidRequest
from alcove.contract.protocol import SandboxBackend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The entry-point group in which another package offers its backend.
GROUP = "alcove.backends"

#: What makes a backend: its class, most often.
BackendFactory = Callable[..., SandboxBackend]


class Entry(NamedTuple):
    """Where a backend lies, and what `pip install` brings what it needs."""

    module: str
    attribute: str
    requirement: str = "alcove"


BACKENDS: dict[str, Entry] = {
    "fake": Entry("alcove.testing.fake", "FakeBackend"),
    "local": Entry("alcove.local", "LocalSandbox"),
}


def names() -> list[str]:
    """Return the name of every backend that is there, sorted, installed requirements or not."""
    return sorted({*BACKENDS, *(point.name for point in _entry_points())})


def load(name: str) -> BackendFactory:
    """Return the class, or other factory, of the backend called `name`.

    Raises:
        InvalidRequest: no backend has that name, two packages claim it, or a package that it needs is not installed.
    """
    entry = BACKENDS.get(name) or _foreign(name)
    try:
        module = import_module(entry.module)
    except ModuleNotFoundError as error:
        raise _not_installed(name, entry, error) from error
    return cast("BackendFactory", getattr(module, entry.attribute))


def _not_installed(name: str, entry: Entry, error: ModuleNotFoundError) -> InvalidRequest:
    return InvalidRequest(
        f"backend `{name}` needs the module `{error.name}`, which is not installed: pip install '{entry.requirement}'"
    )


def _foreign(name: str) -> Entry:
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        raise InvalidRequest(f"no backend is called `{name}`; there are: {', '.join(names())}")
    if len({point.value for point in points}) > 1:
        owners = ", ".join(sorted(_distribution(point) for point in points))
        raise InvalidRequest(f"backend `{name}` is claimed by several packages ({owners}): uninstall all but one")
    point = points[0]
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    return Entry(point.module, point.attr, _distribution(point) + extras)


def _distribution(point: "EntryPoint") -> str:
    return point.dist.name if point.dist else point.module.partition(".")[0]


def _entry_points() -> Iterable["EntryPoint"]:
    from importlib.metadata import entry_points  # 15 ms that nobody pays for a backend of ours

    return entry_points(group=GROUP)
