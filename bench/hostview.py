"""The part of the host's file system that every sandbox is shown, read-only."""

import sys
from dataclasses import dataclass
from pathlib import Path

_TOP = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "var")


@dataclass(frozen=True)
class HostView:
    """Directories to bind, and the links (path, target) that a merged /usr has in their place."""

    binds: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...]


def host_view(root: Path = Path("/")) -> HostView:
    binds: list[Path] = []
    links: list[tuple[Path, str]] = []
    for name in _TOP:
        path = root / name
        if path.is_symlink():
            links.append((path, str(path.readlink())))
        elif path.is_dir():
            binds.append(path)
    return HostView(tuple(binds), tuple(links))


def guest_python() -> str:
    """An interpreter that every runtime can show to its guests: the system's, else our own."""
    system = Path("/usr/bin/python3")
    return str(system) if system.exists() else str(Path(sys.executable).resolve())
