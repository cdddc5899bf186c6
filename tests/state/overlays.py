"""A project of the host's that a session has by copy-on-write: a real overlay, written by the kernel."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from alcove.state.applying import Applied, apply
from alcove.state.changes import Change, changes
from alcove.state.fingerprints import Fingerprints, fingerprints
from tests.state import inside
from tests.state.inside import Look


class Project:
    """The host's directory `lower`, and `upper` with what sessions did so far."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        self.lower = place / "lower"
        self.upper = place / "upper"
        self.lower_fd = os.open(self.lower, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.upper_fd = os.open(self.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.lower_fd)
        os.close(self.upper_fd)

    def write(self, files: dict[str, str | bytes]) -> None:
        """Write files of the host's, with their directories."""
        for path, content in files.items():
            file = self.lower / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    def session(self, script: str) -> Look:
        """Run Python text in the project as the session has it; return what it has then."""
        places = [str(self.place / name) for name in ("lower", "upper", "work", "merged")]
        done = subprocess.run(
            ["unshare", "-Urm", sys.executable, inside.__file__, *places],
            capture_output=True,
            check=False,
            input="import os\nfrom pathlib import Path\n" + script,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        (self.place / "work/work").chmod(0o700)  # the kernel's own, which a plain user cannot remove as it made it
        found: dict[str, list[object]] = json.loads(done.stdout)
        return {path: (int(str(e[0])), int(str(e[1])), str(e[2])) for path, e in found.items()}

    def look(self) -> Look:
        """What the host has."""
        return inside.look(os.fsencode(self.lower))

    def changes(self) -> list[Change]:
        return changes(self.lower_fd, self.upper_fd)

    def whole(self) -> Fingerprints:
        return fingerprints(self.lower_fd)

    def apply(self, base: Fingerprints, *paths: bytes) -> Applied:
        return apply(self.lower_fd, self.upper_fd, paths or None, base=base)


@contextmanager
def project(files: dict[str, str | bytes] | None = None) -> Iterator[Project]:
    """Yield a project for an example of Hypothesis's, which has no fixtures of its own."""
    with tempfile.TemporaryDirectory(prefix="alcove-project-") as place, Project(Path(place)) as made:
        made.write(files or {})
        yield made
