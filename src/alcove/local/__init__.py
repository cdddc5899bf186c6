"""The local backend: sessions on this Linux machine, without a daemon."""

from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.snapshots.lineage import LineageNode
from alcove.state.limits import ImportLimits

__all__ = ["ImportLimits", "LineageNode", "LocalSandbox", "LocalSandboxConfig"]
