"""The local backend: sessions on this Linux machine, without a daemon."""

from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig

__all__ = ["LocalSandbox", "LocalSandboxConfig"]
