"""The floor: the command itself, with no isolation."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contender import Run, run
from bench.origin import Origin
from bench.runtime import Reach, Runtime
from bench.targets import BARE


class Bare(Runtime):
    name = BARE
    how = "subprocess.run(command, capture_output=True)"
    joins = True
    reaches = True

    def version(self) -> str:
        return f"Python {platform.python_version()}"

    def once(self, workspace: Path | None = None) -> Run:
        return lambda command: run(command, cwd=workspace)

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:
        yield self.once(workspace)

    @contextmanager
    def reaching(self, origin: Origin) -> Iterator[Reach]:
        yield Reach(self.once(), origin.own)
