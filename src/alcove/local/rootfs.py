"""The cell's root file system as a list of operations: the host's toolchain read-only, everything else the session's.

What is not named here is not there: /home, /root, /srv, /media, /boot, /run of the host, keys and sockets.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import Struct

from alcove.contract import MEMORY_MOUNT, OUTPUTS_MOUNT, LifecycleError
from alcove.local.operations import Kind, Tree, operation

#: Where a command starts, and its HOME.
WORKSPACE = "/workspace"
#: The standard search path; the running interpreter's directory is appended where it lies elsewhere.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The session's directories in the store, and where each appears.
SESSION_DIRECTORIES = {"workspace": WORKSPACE, "tmp": "/tmp", "outputs": OUTPUTS_MOUNT, "memory": MEMORY_MOUNT}  # noqa: S108

_TOOLCHAIN = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "var", "nix")
# Where services keep sockets and FIFOs that anybody may open; /usr has none, and every program starts from there
_VEILED = ("etc", "opt", "var")
# A directory that every host has: layers lie over it until the host's root goes
_STAGE = "/proc"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ETC_FILES = ("passwd", "group", "shadow", "gshadow", "hosts", "hostname", "resolv.conf", "machine-id")
# What leaks the host or speaks to it, even to a reader without rights; the rest of /proc is the pid namespace's own.
_MASKED = (
    "proc/acpi",
    "proc/asound",
    "proc/bus",
    "proc/fs",
    "proc/interrupts",
    "proc/irq",
    "proc/kallsyms",
    "proc/kcore",
    "proc/key-users",
    "proc/keys",
    "proc/kmsg",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysrq-trigger",
    "proc/timer_list",
)
# With an owned root the guest's packages keep the users, so those files stay the host's, by copy-on-write
_OWNED_ETC_FILES = ("hosts", "hostname", "resolv.conf", "machine-id")
# What an owned root could read as its own, and is not to: keys, and the sessions' store (in `hidden`)
_OWNED_HIDDEN = ("etc/ssl/private", "etc/krb5.keytab", "etc/wireguard", "var/lib/private")
_READ_ONLY = Tree.RDONLY | Tree.NOSUID | Tree.NODEV
_ROOT_BYTES = 16 << 20  # /run is a part of it
_ROOT_INODES = 8192
_SHM_BYTES = 256 << 20


class Layout(Struct, frozen=True):
    """What the root file system is made of on this host, whatever the session.

    `host_made`: trees are cloned with the caller's own rights (root), so that the session's ids need not reach them.
    """

    host_made: bool
    owned: bool
    veiled: tuple[str, ...]
    visible: tuple[str, ...]
    hidden: tuple[str, ...]
    cpus: int
    search_path: str

    @property
    def _tree(self) -> int:
        return Tree.HOST if self.host_made else 0


def layout(*, root: bool, owned: bool, visible: Iterable[str], hidden: Iterable[str], cpus: int) -> Layout:
    """Decide what to show: the toolchain, the running interpreter wherever it lies, and what the caller adds."""
    shown = list(dict.fromkeys([*interpreter_places(), *visible]))
    return Layout(
        host_made=root,
        owned=owned,
        veiled=tuple(name for name in _VEILED if not owned and (root or not _with_mounts_beneath(f"/{name}"))),
        visible=tuple(path for path in shown if not _within_toolchain(path)),
        hidden=tuple(hidden),
        cpus=cpus,
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
    return path.split("/")[1] in _TOOLCHAIN and not path.startswith("/var/tmp/")  # noqa: S108


def _search_path() -> str:
    directory = os.path.dirname(os.path.realpath(sys.executable) if sys.prefix == sys.base_prefix else sys.executable)
    return STANDARD_PATH if directory in STANDARD_PATH.split(":") else f"{STANDARD_PATH}:{directory}"


class SessionPlaces(Struct, frozen=True):
    """Where one session's files lie on the host."""

    directory: str
    memory: str
    memory_is_own: bool
    etc: str
    idmap: bool
    base_id: int | None
    shm_bytes: int | None


def operations(layout: Layout, places: SessionPlaces) -> list[bytes]:
    """The root file system in the order in which it is built."""
    return [
        _before(layout, places.shm_bytes or _SHM_BYTES),
        *(_owned(layout, places) if layout.owned else ()),
        *_session(layout, places),
        _after(layout, places.etc),
    ]


# What is the same for every session of a layout is encoded once: looking at the host's directories and encoding take
# a tenth of a session's start.


@lru_cache(maxsize=16)
def _before(layout: Layout, shm_bytes: int) -> bytes:
    root = operation(Kind.ROOT, v0=_ROOT_BYTES, v1=_ROOT_INODES)
    return b"".join([root, *_toolchain(layout), *_devices(layout, shm_bytes), *_stubs(layout)])


@lru_cache(maxsize=16)
def _after(layout: Layout, etc: str) -> bytes:
    masks = [*_MASKED, *(path.lstrip("/") for path in layout.hidden), *(_owned_secrets() if layout.owned else ())]
    return b"".join(
        [
            *_etc(layout, etc),
            *_visible(layout),
            operation(Kind.DIRECTORY, "proc", n0=0o555),
            operation(Kind.PROC, "proc"),
            *(operation(Kind.MASK, path) for path in masks),
            operation(Kind.READONLY, "proc/sys"),
            operation(Kind.SEAL),
        ]
    )


def _toolchain(layout: Layout) -> Iterator[bytes]:
    for name in _TOOLCHAIN:
        path = f"/{name}"
        if os.path.islink(path):
            yield operation(Kind.SYMLINK, name, os.readlink(path))
        elif os.path.isdir(path):
            yield operation(Kind.DIRECTORY, name, n0=0o755)
            if name in layout.veiled and name != "etc":
                yield from _veiled(layout, name)
            elif not layout.owned and name not in layout.veiled:
                yield operation(Kind.TREE, path, name, flags=_READ_ONLY | layout._tree)
    if not os.path.isdir("/var"):
        yield operation(Kind.DIRECTORY, "var", n0=0o755)
        yield operation(Kind.DIRECTORY, "var/tmp", n0=0o1777)


def _veiled(layout: Layout, name: str, above: tuple[str, ...] = ()) -> Iterator[bytes]:
    """A read-only overlay: its sockets, FIFOs and locks are other objects than the host's, which a bind's are not.

    `above` are layers that are staged already and whose files come before the host's.
    """
    flags = _READ_ONLY | layout._tree | Tree.NOT_RECURSIVE | Tree.STAGE
    yield operation(Kind.TREE, f"/{name}", f"/{name}", flags=flags)
    # one lower layer alone is no overlay: where there is no other, an empty directory of the new root is the second
    lower = ":".join((*above, f"/{name}", *(() if above else (name,))))
    yield operation(Kind.OVERLAY, name, lower, flags=_READ_ONLY)


def _with_mounts_beneath(path: str) -> bool:
    """Locked together in a plain user's namespace, such a tree cannot be a lower layer."""
    with open("/proc/self/mountinfo") as file:
        return any(line.split(" ")[4].startswith(f"{path}/") for line in file)


def owned_places() -> list[str]:
    """The top-level directories that the guest's root owns by copy-on-write."""
    return [name for name in _TOOLCHAIN if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]


def upper_directories(layout: Layout) -> list[str]:
    """What a session's directory has besides, for the upper layers of an owned root; parents first."""
    if not layout.owned:
        return []
    names = ["layers"]
    for name in owned_places():
        names += [f"layers/{name}", f"layers/{name}/upper", f"layers/{name}/work"]
    return names


def _owned(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    """One overlay per top-level directory, over an idmapped view of the host's.

    The clone has no mounts beneath it: with them it could not be a lower layer (they are locked together in a user
    namespace), and they are the host's business (a container's /etc/hostname).
    """
    flags = Tree.HOST | Tree.IDMAP | Tree.NOSUID | Tree.NODEV | Tree.STAGE
    yield operation(Kind.TREE, f"{places.directory}/layers", _STAGE, flags=flags)
    for name in owned_places():
        lower = flags | Tree.RDONLY | Tree.NOT_RECURSIVE
        yield operation(Kind.TREE, f"/{name}", f"/{name}", flags=lower)
        yield operation(Kind.OVERLAY, name, f"/{name}", flags=Tree.NOSUID | Tree.NODEV)
        yield operation(Kind.OVERLAY_UPPER, f"{_STAGE}/{name}/upper", f"{_STAGE}/{name}/work")


def check_overlays(warden: int) -> None:
    """Read back what the kernel put in force: some versions drop overlay options in silence.

    Raises:
        LifecycleError: an overlay would follow crafted metadata of a layer.
    """
    with open(f"/proc/{warden}/mountinfo") as file:
        overlays = [line for line in file if " - overlay " in line and "upperdir=" in line]
    for line in overlays:
        options = line.rsplit(" ", 1)[1].strip().split(",")
        if "userxattr" not in options or {"metacopy=on", "redirect_dir=on", "redirect_dir=follow"}.intersection(options):
            raise LifecycleError(f"this kernel's overlay has options that are not safe here: {','.join(options[-6:])}")


def _devices(layout: Layout, shm_bytes: int) -> Iterator[bytes]:
    yield operation(Kind.DIRECTORY, "dev", n0=0o755)
    flags = Tree.RDONLY | Tree.NOSUID | Tree.NOEXEC | Tree.NOT_RECURSIVE
    for name in _DEVICES:
        yield operation(Kind.FILE, f"dev/{name}", n0=0o666)
        yield operation(Kind.TREE, f"/dev/{name}", f"dev/{name}", flags=flags | layout._tree)
    yield operation(Kind.DIRECTORY, "dev/pts", n0=0o755)
    yield operation(Kind.DEVPTS, "dev/pts")
    yield operation(Kind.SYMLINK, "dev/ptmx", "pts/ptmx")
    yield operation(Kind.SYMLINK, "dev/fd", "/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        yield operation(Kind.SYMLINK, f"dev/{name}", f"/proc/self/fd/{number}")
    yield operation(Kind.DIRECTORY, "dev/shm", n0=0o1777)
    flags = Tree.NOSUID | Tree.NODEV
    yield operation(Kind.TMPFS, "dev/shm", v0=shm_bytes, v1=65_536, n0=0o1777, flags=flags)
    yield operation(Kind.DIRECTORY, "run", n0=0o755)
    yield operation(Kind.WRITABLE, "run")
    yield operation(Kind.DIRECTORY, "run/lock", n0=0o1777)


def _stubs(layout: Layout) -> Iterator[bytes]:
    """A /sys without sysfs: what C libraries and runtimes read to count processors."""
    path = ""
    for part in ("sys", "devices", "system", "cpu"):
        path = f"{path}/{part}".lstrip("/")
        yield operation(Kind.DIRECTORY, path, n0=0o555)
    for name in ("online", "possible", "present"):
        yield operation(Kind.FILE, f"{path}/{name}", f"0-{layout.cpus - 1}\n", n0=0o444)


def _session(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    own = layout._tree | (Tree.IDMAP if places.idmap else 0) | Tree.NOSUID | Tree.NODEV
    yield operation(Kind.DIRECTORY, "workspace", n0=0o755)
    yield operation(Kind.TREE, f"{places.directory}/workspace", "workspace", flags=own)
    yield operation(Kind.DIRECTORY, "tmp", n0=0o1777)
    yield operation(Kind.TREE, f"{places.directory}/tmp", "tmp", flags=own)
    yield operation(Kind.TREE, f"{places.directory}/tmp", "var/tmp", flags=own | Tree.OPTIONAL)
    for path in ("mnt", "mnt/session", "mnt/session/outputs", "mnt/memory"):
        yield operation(Kind.DIRECTORY, path, n0=0o755)
    yield operation(Kind.TREE, f"{places.directory}/outputs", "mnt/session/outputs", flags=own)
    if places.memory_is_own:
        yield operation(Kind.TREE, places.memory, "mnt/memory", flags=own | Tree.RDONLY)
    else:
        yield _owner_tree(layout, places)


def _owner_tree(layout: Layout, places: SessionPlaces) -> bytes:
    """A directory of the caller's; for root its owner on disk is the session's root inside."""
    flags = _READ_ONLY | layout._tree
    if places.base_id is None or not places.idmap:
        return operation(Kind.TREE, places.memory, "mnt/memory", flags=flags)
    found = os.stat(places.memory)
    ids = {"n0": found.st_uid, "n1": found.st_gid, "v0": places.base_id, "v1": places.base_id}
    return operation(Kind.TREE, places.memory, "mnt/memory", flags=flags | Tree.IDMAP_OWNER, **ids)


def _etc(layout: Layout, directory: str) -> Iterator[bytes]:
    """Our own files over those of the host's /etc; without an overlay over those that are there, of which a link (as
    resolv.conf often is) leads into /run.
    """
    if "etc" in layout.veiled:
        flags = _READ_ONLY | layout._tree | Tree.STAGE
        yield operation(Kind.TREE, directory, _STAGE, flags=flags)
        yield from _veiled(layout, "etc", above=(_STAGE,))
        return
    for name in _OWNED_ETC_FILES if layout.owned else _ETC_FILES:
        path = f"/etc/{name}"
        if os.path.islink(path):
            yield from _behind_link(path, f"{directory}/{name}")
        elif os.path.isfile(path):
            source = f"{directory}/{name}"
            yield operation(Kind.TREE, source, path, flags=_READ_ONLY | layout._tree | Tree.NOT_RECURSIVE)


def _behind_link(path: str, source: str) -> Iterator[bytes]:
    target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    if not target.startswith("/run/"):
        return
    made = "run"
    parts = target.split("/")[2:]
    for part in parts[:-1]:
        made = f"{made}/{part}"
        yield operation(Kind.DIRECTORY, made, n0=0o755)
    with open(source, "rb") as file:
        yield operation(Kind.FILE, f"{made}/{parts[-1]}", file.read(), n0=0o444)


def _owned_secrets() -> list[str]:
    keys = [entry.path.lstrip("/") for entry in os.scandir("/etc/ssh") if entry.name.endswith("_key")] if os.path.isdir("/etc/ssh") else []
    return [*_OWNED_HIDDEN, *keys]


def _visible(layout: Layout) -> Iterator[bytes]:
    for path in layout.visible:
        if not os.path.isdir(path):
            continue
        made = ""
        for part in path.split("/")[1:]:
            made = f"{made}/{part}".lstrip("/")
            yield operation(Kind.DIRECTORY, made, n0=0o755)
        yield operation(Kind.TREE, path, made, flags=_READ_ONLY | layout._tree)
