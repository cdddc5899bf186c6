"""The part of the store's file system that Alcove leaves to everybody else on this host.

What takes room by itself (a new session, a copied layer, an import) asks first, and a long copy asks on the way. What a
guest writes into a session without `disk_mb` asks nobody: only the file system and its quotas bound that.
"""

import os
from collections.abc import Callable

from alcove.contract import SandboxIoError
from alcove.local.config import LocalSandboxConfig
from alcove.state.contents import Progress

_MIB = 1 << 20
_MOST = 1 << 30
_PART = 20  # one twentieth


def size(config: LocalSandboxConfig, total: int) -> int:
    """The reserve in bytes, of a file system of `total` bytes."""
    if config.disk_reserve_mb is not None:
        return config.disk_reserve_mb * _MIB
    return min(total // _PART, _MOST)


def check(root: str, config: LocalSandboxConfig) -> None:
    """Refuse what would take room from the reserve; one statvfs(2).

    Raises:
        SandboxIoError: no more than the reserve is free.
    """
    found = os.statvfs(root)
    free, least = found.f_bavail * found.f_frsize, size(config, found.f_blocks * found.f_frsize)
    if free < least:
        raise SandboxIoError(
            f"the disk of the store {root} is nearly full: {free // _MIB} MiB are free, {least // _MIB} MiB are kept "
            "(`LocalSandboxConfig.disk_reserve_mb`); `alcove df` shows what takes it, `alcove rm` and "
            "`alcove snapshots rm` give it back"
        )


def guarding(root: str, config: LocalSandboxConfig, progress: Callable[[int], object] | None = None) -> Progress:
    """Return what to call with each number of bytes copied, so that a copy ends where the reserve begins."""

    def advance(count: int) -> None:
        check(root, config)
        if progress is not None:
            progress(count)

    return advance
