"""Where strangers' archives are brought in: a directory with a canary, of which only the layers may change."""

import os
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import InvalidRequest
from alcove.state.importing import Imported, import_
from alcove.state.limits import ImportLimits
from tests.state.images import listing


class Arena:
    """A directory with a canary, in which layers are made; nothing but they may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "outside").mkdir()
        (path / "outside" / "canary").write_text("canary")
        (path / "outside" / "canary").chmod(0o640)
        (path / "layers").mkdir()
        (path / "done").mkdir()
        self.before = listing(path / "outside"), sorted(os.listdir(path))

    def layers(self) -> list[Path]:
        return sorted((self.path / "layers").iterdir())

    def set_aside(self) -> None:
        """Have no layers any more, so that only what comes next is looked at."""
        for number, path in enumerate(self.layers()):
            path.rename(self.path / "done" / f"{len(os.listdir(self.path / 'done'))}-{number}")

    def bring_in(self, archive: Any, **options: Any) -> Imported:
        opened: list[int] = []

        def make_layer() -> int:
            path = self.path / "layers" / f"{len(self.layers()):03}"
            path.mkdir(mode=0o700)
            opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
            return opened[-1]

        try:
            return import_(archive, make_layer, **options)
        finally:
            for fd in opened:
                os.close(fd)
            assert (listing(self.path / "outside"), sorted(os.listdir(self.path))) == self.before

    def defuses(self, archive: Any, match: str, limits: ImportLimits) -> None:
        """See a bomb refused before there is any place for it."""
        self.refuses(archive, match, limits=limits)
        assert self.layers() == []

    def refuses(self, archive: Any, match: str = "archive refused", **options: Any) -> None:
        with pytest.raises(InvalidRequest, match=match) as refusal:
            self.bring_in(archive, **options)
        assert str(refusal.value).isprintable()
        assert [path for path in self.layers() if os.listdir(path)] == []
