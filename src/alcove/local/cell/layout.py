"""What a session's root file system is made of on this host, and where a session's own files lie: as values."""

import os
import sys
from collections.abc import Iterable

from msgspec import Struct

from alcove.local.cell.etc import Identity
from alcove.local.cell.operations import Tree

#: Where a command starts, and its HOME.
WORKSPACE = "/workspace"
#: The standard search path; the running interpreter's directory is appended where it lies elsewhere.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The log of what a session tried to reach, in its directory.
EGRESS_LOG = "egress.log"
#: The host's top-level directories that a session sees, where they are.
TOOLCHAIN = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "var", "nix")

# Where services keep sockets and FIFOs that anybody may open; /usr has none, and every program starts from there
_VEILED = ("etc", "opt", "var")


class Layout(Struct, frozen=True):
    """What the root file system is made of on this host, whatever the session.

    `host_made`: trees are cloned with the caller's own rights (root), so that the session's ids need not reach them.
    `prepared` is a directory with /dev and /sys (alcove.local.cell.prepared).
    `veiled` are shown by way of an overlay, those of them in `together` by way of one.
    """

    host_made: bool
    owned: bool
    veiled: tuple[str, ...]
    together: tuple[str, ...]
    visible: tuple[str, ...]
    hidden: tuple[str, ...]
    cpus: int
    prepared: str | None
    search_path: str

    @property
    def tree_flags(self) -> int:
        """What every tree of the host's has in common."""
        return Tree.HOST if self.host_made else 0


def decide(
    *, root: bool, owned: bool, visible: Iterable[str], hidden: Iterable[str], cpus: int, prepared: str | None
) -> Layout:
    """Decide what to show: the toolchain, the running interpreter wherever it lies, and what the caller adds."""
    shown = list(dict.fromkeys([*interpreter_places(), *visible]))
    mounts = _mount_points()
    veiled = [name for name in _VEILED if not owned and os.path.isdir(f"/{name}")]
    return Layout(
        host_made=root,
        owned=owned,
        # locked together in a plain user's namespace, a tree with mounts beneath cannot be a lower layer
        veiled=tuple(name for name in veiled if root or not any(path.startswith(f"/{name}/") for path in mounts)),
        together=tuple(name for name in veiled if root and f"/{name}" not in mounts),
        visible=tuple(path for path in shown if not _within_toolchain(path)),
        hidden=tuple(hidden),
        cpus=cpus,
        prepared=prepared,
        search_path=_search_path(),
    )


def interpreter_places() -> list[str]:
    """The running interpreter's prefix, its base, and directories on its path that lie outside both."""
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    places += [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]
    outermost: list[str] = []
    for path in sorted({os.path.realpath(place) for place in places}):
        if path != "/" and not any(path.startswith(f"{other}/") for other in outermost):
            outermost.append(path)
    return outermost


def _within_toolchain(path: str) -> bool:
    return path.split("/")[1] in TOOLCHAIN and not path.startswith("/var/tmp/")


def _search_path() -> str:
    directory = os.path.dirname(os.path.realpath(sys.executable) if sys.prefix == sys.base_prefix else sys.executable)
    return STANDARD_PATH if directory in STANDARD_PATH.split(":") else f"{STANDARD_PATH}:{directory}"


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split(" ")[4] for line in file]


class SessionPlaces(Struct, frozen=True):
    """Where one session's files lie on the host.

    What its guest writes lies in `directory`, which is on `device` where it has a disk of its own.
    `below` names, for each part that has any, the sealed layers beneath it in the directory `layers`, topmost first.
    """

    directory: str
    layers: str
    below: dict[str, tuple[str, ...]]
    memory: str
    memory_is_own: bool
    etc: str
    identity: Identity
    idmap: bool
    base_id: int | None
    shm_bytes: int | None
    device: str | None = None
