"""What a process and its sandboxes hold of the kernel's, before and after, seen from /proc and /sys and nowhere else.

Other processes of the machine do not disturb it: it looks at this process's own descriptors and descendants, and beyond
those only at what bears the store's path, or the key of a session that the store knows or remembers.
"""

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from msgspec import Struct
from msgspec.structs import asdict

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_NAME = "alcove-"  # begins the titles of warden, spawner and init, and the names of cgroups; a session's key follows
_KEY_LENGTH = 8  # at least: shorter words would be found in any database
_POLL = 0.02


class Holdings(Struct, frozen=True):
    """Everything held at one moment, as texts that a person can follow up."""

    descriptors: frozenset[str]
    processes: frozenset[str]
    net_namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    directories: frozenset[str]
    loop_devices: frozenset[str]


class no_leaks:  # noqa: N801 - used as `with no_leaks(store):`
    """Require that a block ends with the descriptors, processes, mounts and so on that it began with.

    `store` is the directory of the store in use: its directories, its sessions' processes and cgroups, and mounts that
    name it are looked at as well; so are cgroups whose name begins with `cgroup_prefix`, where one is given. What ends
    on its own has `within` seconds for it. Works with `with` and `async with`; an error of the block itself goes first.

    Raises:
        AssertionError: something is left, or gone that was there; the message lists each.
    """

    def __init__(self, store: Path | None = None, *, cgroup_prefix: str | None = None, within: float = 5.0) -> None:
        self._look: Callable[[], Holdings] = lambda: held(store, cgroup_prefix=cgroup_prefix)
        self._within = within
        self._before: Holdings | None = None

    def __enter__(self) -> None:
        gc.collect()
        self._before = self._look()

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            for _ in self._attempts():
                time.sleep(_POLL)  # others' exits are watched, not awaited: they are no children of ours

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            for _ in self._attempts():
                await asyncio.sleep(_POLL)

    def _attempts(self) -> Iterator[None]:
        deadline = time.monotonic() + self._within
        while difference := self._difference():
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(["leaks:", *difference]))
            yield

    def _difference(self) -> list[str]:
        assert self._before is not None, "no_leaks is a context manager"  # noqa: S101
        gc.collect()
        before, after = asdict(self._before), asdict(self._look())
        return [
            f"  {kind}: {mark} {item}"
            for kind in before
            for mark, items in (("+", after[kind] - before[kind]), ("-", before[kind] - after[kind]))
            for item in sorted(items)
        ]


def held(store: Path | None = None, *, cgroup_prefix: str | None = None) -> Holdings:
    """Return what is held now by this process, its descendants and the store's sessions."""
    written = _written(store) if store else b""
    pids = _our_processes(store, written)
    return Holdings(
        descriptors=frozenset(_descriptors()),
        processes=frozenset(_described(pid) for pid in pids),
        net_namespaces=frozenset(_net_namespaces(pids)),
        mounts=frozenset(_mounts(store)),
        cgroups=frozenset(_cgroup_directories(cgroup_prefix, written)),
        directories=frozenset(_directories(store) if store else ()),
        loop_devices=frozenset(_loop_devices(store) if store else ()),
    )


def _descriptors() -> Iterator[str]:
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    for name in names:
        with suppress(FileNotFoundError):  # the one that scandir had open
            yield f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"


def _written(store: Path) -> bytes:
    """Return the store's names, two levels deep, and its databases' bytes: a live or remembered key is in there."""
    names = [os.fsencode(path.name) for pattern in ("*", "*/*") for path in store.glob(pattern)]
    databases = [str(path) for path in store.glob("*.db*")]
    if databases:
        # by another process: closing any descriptor of a file drops every POSIX lock that a process holds on it, and
        # SQLite, in this process, holds some (https://www.sqlite.org/howtocorrupt.html, 2.2)
        names.append(subprocess.run(["cat", *databases], capture_output=True, check=False).stdout)
    return b"\n".join(names)


def _is_key(word: bytes, written: bytes) -> bool:
    return len(word) >= _KEY_LENGTH and word in written


def _our_processes(store: Path | None, written: bytes) -> list[int]:
    parents = dict(_parents())
    me = os.getpid()
    return sorted(pid for pid in parents if _descends(pid, me, parents) or (store and _serves(pid, store, written)))


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                stat = (entry / "stat").read_bytes()
                # the command name, in parentheses, may itself hold spaces and parentheses
                yield int(entry.name), int(stat[stat.rindex(b")") + 2 :].split()[1])


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    parent = parents.get(pid)
    while parent is not None and parent != ancestor:
        parent = parents.get(parent)
    return parent == ancestor


def _serves(pid: int, store: Path, written: bytes) -> bool:
    """Tell whether `pid` is one of our native processes and works for `store`: by its title, or by what it has open."""
    place = _PROC / str(pid)
    path = os.fsencode(store)
    with suppress(OSError):
        title = (place / "cmdline").read_bytes()
        if not title.startswith(_NAME.encode()):
            return False
        if path in title or any(_is_key(word, written) for word in title.replace(b"\0", b" ").split()[1:]):
            return True
        links = [place / "cwd", *(place / "fd").iterdir()]  # EACCES on a non-dumpable process of a plain user
        return any(os.fsencode(os.readlink(link)).startswith(path) for link in links)
    return False


def _described(pid: int) -> str:
    try:
        title = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").strip()
        name = title or (_PROC / str(pid) / "comm").read_bytes().strip() + b" (zombie)"
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} (gone)"
    return f"{pid} {name.decode('utf-8', 'replace')}"


def _net_namespaces(pids: list[int]) -> Iterator[str]:
    own = os.readlink("/proc/self/ns/net")
    for pid in pids:
        with suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/net")
            if namespace != own:
                yield namespace


def _mounts(store: Path | None) -> Iterator[str]:
    # mountinfo writes white space and backslashes of a path as octal escapes
    mark = str(store or "alcove").replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        if mark in line:
            yield line


def _cgroup_directories(prefix: str | None, written: bytes) -> Iterator[str]:
    for place, directories, _files in os.walk(_CGROUPS):
        for name in directories:
            ours = name.startswith(_NAME) and _is_key(os.fsencode(name.removeprefix(_NAME)), written)
            if ours or (prefix and name.startswith(prefix)):
                yield str(Path(place, name))


def _loop_devices(store: Path) -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # detached meanwhile
            image = path.read_text("utf-8", "surrogateescape").rstrip("\n")
            if image.startswith(f"{store}/"):
                yield f"{path.parts[3]} -> {image}"


def _directories(store: Path) -> Iterator[str]:
    for place, directories, _files in os.walk(store):
        for name in directories:
            yield str(Path(place, name))
