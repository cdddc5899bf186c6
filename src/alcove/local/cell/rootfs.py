"""The cell's root file system as a list of operations: the host's toolchain read-only, everything else the session's.

What is not named here is not there: /home, /root, /srv, /media, /boot, /run of the host, keys and sockets.
"""

import os
from collections.abc import Iterator
from functools import lru_cache

from alcove.local.cell import overlays, prepared
from alcove.local.cell.layout import TOOLCHAIN, Layout, SessionPlaces
from alcove.local.cell.operations import Kind, Tree, operation
from alcove.local.cell.parts import OUTPUTS, OWN

_ETC_FILES = ("passwd", "group", "shadow", "gshadow", "resolv.conf")
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
# What every program start opens and maps: through an overlay that costs it a few per cent
_LINKER_CACHE = "/etc/ld.so.cache"
# With an owned root the guest's packages keep the users, so those files stay the host's, by copy-on-write
_OWNED_ETC_FILES = ("resolv.conf",)
_READ_ONLY = Tree.RDONLY | Tree.NOSUID | Tree.NODEV
_ROOT_BYTES = 16 << 20  # /run is a part of it
_ROOT_INODES = 8192
_SHM_BYTES = 256 << 20


def operations(layout: Layout, places: SessionPlaces) -> list[bytes]:
    """The root file system in the order in which it is built: what needs no tree of the host's first.

    As root the trees are handed over by another process, which makes them meanwhile.
    """
    disk = [operation(Kind.DISK, places.device, places.directory)] if places.device else []
    awaited = b"".join((operation(Kind.AWAIT), *disk, *overlays.staged(layout, places)))
    configuration = b"".join((*_identity(layout, places), _configuration(layout, places.etc)))
    return [
        _skeleton(layout),
        _toolchain(layout, places.shm_bytes or _SHM_BYTES),
        # what needs no directory of the session's comes before the wait for those; but our files go over an owned /etc
        *([awaited, *overlays.owned(layout, places), configuration] if layout.owned else [configuration, awaited]),
        *_session(layout, places),
        _after(layout),
    ]


# What is the same for every session of a layout is encoded once: looking at the host's directories and encoding take
# a tenth of a session's start.


@lru_cache(maxsize=16)
def _skeleton(layout: Layout) -> bytes:
    root = operation(Kind.ROOT, v0=_ROOT_BYTES, v1=_ROOT_INODES)
    made = () if layout.prepared else (*_own_devices(), *_stubs(layout))
    return b"".join([root, *_points(), *made, operation(Kind.WRITABLE, "run"), _directory("run/lock", 0o1777)])


@lru_cache(maxsize=16)
def _toolchain(layout: Layout, shm_bytes: int) -> bytes:
    parts: list[bytes] = []
    for name in TOOLCHAIN:
        if os.path.islink(f"/{name}") or not os.path.isdir(f"/{name}"):
            continue
        if name in layout.veiled and name != "etc" and name not in layout.together:
            parts += overlays.veiled(layout, name)
        elif not layout.owned and name not in layout.veiled:
            parts.append(operation(Kind.TREE, f"/{name}", name, flags=_READ_ONLY | layout.tree_flags))
    return b"".join([*parts, *_devices(layout), *_on_devices(shm_bytes)])


@lru_cache(maxsize=16)
def _configuration(layout: Layout, etc: str) -> bytes:
    return b"".join(_etc(layout, etc))


@lru_cache(maxsize=16)
def _after(layout: Layout) -> bytes:
    secrets = overlays.owned_secrets() if layout.owned else ()
    masks = [*_MASKED, *(path.lstrip("/") for path in layout.hidden), *secrets]
    return b"".join(
        [
            *_visible(layout),
            operation(Kind.PROC, "proc"),
            *(operation(Kind.MASK, path) for path in masks),
            operation(Kind.READONLY, "proc/sys"),
            operation(Kind.SEAL),
        ]
    )


def _points() -> Iterator[bytes]:
    """The directories and links at the top."""
    for name in TOOLCHAIN:
        path = f"/{name}"
        if os.path.islink(path):
            yield operation(Kind.SYMLINK, name, os.readlink(path))
        elif os.path.isdir(path):
            yield operation(Kind.DIRECTORY, name, n0=0o755)
    if not os.path.isdir("/var"):
        yield operation(Kind.DIRECTORY, "var", n0=0o755)
        yield operation(Kind.DIRECTORY, "var/tmp", n0=0o1777)
    for path in ("dev", "sys", "workspace", "mnt", "mnt/session", "mnt/session/outputs", "mnt/memory", "run"):
        yield _directory(path, 0o755)
    yield _directory("tmp", 0o1777)
    yield _directory("proc", 0o555)


def _own_devices() -> Iterator[bytes]:
    for name in prepared.DEVICES:
        yield operation(Kind.FILE, f"dev/{name}", n0=0o666)
    for name, target in prepared.LINKS.items():
        yield operation(Kind.SYMLINK, f"dev/{name}", target)
    for name in ("pts", "shm"):
        yield _directory(f"dev/{name}", 0o755)


def _devices(layout: Layout) -> Iterator[bytes]:
    flags = Tree.RDONLY | Tree.NOSUID | Tree.NOEXEC | Tree.NOT_RECURSIVE | layout.tree_flags
    if layout.prepared:
        yield operation(Kind.TREE, f"{layout.prepared}/dev", "dev", flags=flags)
        yield operation(Kind.TREE, f"{layout.prepared}/sys", "sys", flags=flags | Tree.NODEV)
        return
    for name in prepared.DEVICES:
        yield operation(Kind.TREE, f"/dev/{name}", f"dev/{name}", flags=flags)


def _on_devices(shm_bytes: int) -> Iterator[bytes]:
    yield operation(Kind.DEVPTS, "dev/pts")
    flags = Tree.NOSUID | Tree.NODEV
    yield operation(Kind.TMPFS, "dev/shm", v0=shm_bytes, v1=65_536, n0=0o1777, flags=flags)


def _stubs(layout: Layout) -> Iterator[bytes]:
    """A /sys without sysfs."""
    path = "sys"
    for part in prepared.CPUS.split("/"):
        path = f"{path}/{part}"
        yield _directory(path, 0o555)
    for name in prepared.CPU_FILES:
        yield operation(Kind.FILE, f"{path}/{name}", f"0-{layout.cpus - 1}\n", n0=0o444)


def _directory(path: str, mode: int) -> bytes:
    return operation(Kind.DIRECTORY, path, n0=mode)


def _session(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    own = layout.tree_flags | (Tree.IDMAP if places.idmap else 0) | Tree.NOSUID | Tree.NODEV
    for part in (*OWN, OUTPUTS):
        if part.name in places.below:
            yield from overlays.writable(part, places)
        else:
            yield operation(Kind.TREE, f"{places.directory}/{part.upper}", part.target.lstrip("/"), flags=own)
    yield operation(Kind.TREE, "tmp", "var/tmp", flags=Tree.NOSUID | Tree.NODEV)
    if places.memory_is_own:
        yield operation(Kind.TREE, places.memory, "mnt/memory", flags=own | Tree.RDONLY)
    else:
        yield _owner_tree(layout, places)


def _owner_tree(layout: Layout, places: SessionPlaces) -> bytes:
    """A directory of the caller's; for root its owner on disk is the session's root inside."""
    flags = _READ_ONLY | layout.tree_flags
    if places.base_id is None or not places.idmap:
        return operation(Kind.TREE, places.memory, "mnt/memory", flags=flags)
    found = os.stat(places.memory)
    ids = {"n0": found.st_uid, "n1": found.st_gid, "v0": places.base_id, "v1": places.base_id}
    return operation(Kind.TREE, places.memory, "mnt/memory", flags=flags | Tree.IDMAP_OWNER, **ids)


def _identity(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    """The files of /etc that no two sessions share: in a layer of it where it is an overlay, else over it."""
    yield operation(Kind.DIRECTORY, overlays.OWN_ETC, n0=0o755)
    for name, text in places.identity.files().items():
        yield operation(Kind.FILE, f"{overlays.OWN_ETC}/{name}", text, n0=0o644)
        if "etc" not in layout.veiled and os.path.isfile(f"/etc/{name}") and not os.path.islink(f"/etc/{name}"):
            yield operation(Kind.TREE, f"{overlays.OWN_ETC}/{name}", f"etc/{name}", flags=_READ_ONLY)


def _etc(layout: Layout, directory: str) -> Iterator[bytes]:
    """Our own files over those of the host's /etc.

    Without an overlay, over those that are there; a link among them, as resolv.conf often is, leads into /run.
    """
    if "etc" in layout.veiled:
        if "etc" in layout.together:
            yield from overlays.veiled_together(layout, directory)
        else:
            flags = _READ_ONLY | layout.tree_flags | Tree.STAGE
            yield operation(Kind.TREE, directory, overlays.STAGE, flags=flags)
            yield from overlays.veiled(layout, "etc", above=(overlays.OWN_ETC, overlays.STAGE))
        if os.path.isfile(_LINKER_CACHE):
            direct = _READ_ONLY | layout.tree_flags | Tree.NOT_RECURSIVE
            yield operation(Kind.TREE, _LINKER_CACHE, _LINKER_CACHE, flags=direct)
        return
    for name in _OWNED_ETC_FILES if layout.owned else _ETC_FILES:
        path = f"/etc/{name}"
        if os.path.islink(path):
            yield from _behind_link(path, f"{directory}/{name}")
        elif os.path.isfile(path):
            source = f"{directory}/{name}"
            yield operation(Kind.TREE, source, path, flags=_READ_ONLY | layout.tree_flags | Tree.NOT_RECURSIVE)


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


def _visible(layout: Layout) -> Iterator[bytes]:
    for path in layout.visible:
        if not os.path.isdir(path):
            continue
        made = ""
        for part in path.split("/")[1:]:
            made = f"{made}/{part}".lstrip("/")
            yield operation(Kind.DIRECTORY, made, n0=0o755)
        yield operation(Kind.TREE, path, made, flags=_READ_ONLY | layout.tree_flags)
