"""The runtimes Alcove is measured beside, each set up as comparably as it can be."""

from pathlib import Path

from bench.peers.bubblewrap import Bubblewrap
from bench.peers.firejail import Firejail
from bench.peers.oci import Crun, Runc
from bench.peers.sandlock import Sandlock
from bench.peers.slirp4netns import Slirp4netns
from bench.peers.unshare import Unshare
from bench.runtime import Runtime


def peers(state: Path) -> list[Runtime]:
    """All that are known; ``state`` is a directory for bundles and containers."""
    return [Unshare(), Bubblewrap(), Firejail(), Runc(state), Crun(state), Sandlock(), Slirp4netns()]
