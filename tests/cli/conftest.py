"""The command line over a store of the test's own, and the check that the test leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.testing import no_leaks
from tests import keeping
from tests.cli.cli import Cli


@pytest.fixture
def alcove(alcove_command: list[str], short_tmp: Path, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(alcove_command, short_tmp / "store", tmp_path)
    for network in ([], ["--net"]):
        cli.out("run", *network, "--", "true")  # makes what the store keeps for later sessions
    with no_leaks(cli.store):
        yield cli
        if cli.ids():
            cli.out("rm", "--all")
        if snapshots := cli.out("snapshots", "--quiet").split():
            cli.out("snapshots", "rm", *snapshots)
        keeping.end(cli.store)
