"""Layers to export, and the way out and back in one call."""

import io
import os
from pathlib import Path
from typing import Any

from alcove.state.exporting import Exported, export
from alcove.state.importing import Imported, import_
from alcove.state.tree import digest
from tests.state.images import directories


def exported(*layers: Path, out: Any = None, **options: Any) -> tuple[io.BytesIO, Exported]:
    out = io.BytesIO() if out is None else out
    with directories(layers) as opened:
        return out, export(opened, options.pop("metadata", {}), out, **options)


def imported(archive: Any, *targets: Path, **options: Any) -> Imported:
    if isinstance(archive, io.BytesIO):
        archive.seek(0)
    for target in targets:
        target.mkdir(exist_ok=True)
    with directories(targets) as opened:
        return import_(archive, iter(opened).__next__, **options)


def digest_of(path: Path) -> str:
    with directories([path]) as (fd,):
        return digest(fd)


def furnish(path: Path) -> None:
    """Make one of everything that a guest's directory may have."""
    workspace = path / "workspace"
    (workspace / "deep" / "er").mkdir(parents=True)
    (workspace / "empty").touch()
    (workspace / "content").write_bytes(bytes(range(256)) * 5000)
    os.setxattr(workspace / "content", "user.note", b"\0binary\n=\xff")
    os.link(workspace / "content", workspace / "deep" / "hard")
    (workspace / "deep" / "soft").symlink_to("/etc/passwd")
    (workspace / "deep" / "long").symlink_to("x" * 300)
    os.mkfifo(workspace / "fifo", 0o640)
    Path(os.fsdecode(os.fsencode(workspace) + b"/\xff\xfe not utf-8 \n")).write_text("bytes")
    (workspace / ("l" * 255)).write_text("long name")
    (workspace / "deep" / "script").touch(0o755)
    (path / "tmp").mkdir()
    (path / "tmp").chmod(0o1777)
    os.setxattr(path / "tmp", "user.dir", b"1")
    os.utime(workspace / "empty", ns=(0, 1_234_567_890_123_456_789))
    os.utime(workspace / "deep" / "soft", ns=(0, 42), follow_symlinks=False)
    os.utime(workspace / "deep" / "script", ns=(0, -1_500_000_000))
    os.utime(workspace / "deep", ns=(0, 7_000_000_007))
