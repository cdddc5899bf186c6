"""The sessions and snapshots of a fake backend."""

from alcove.contract import rules
from alcove.contract.types import (
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    FilesystemAccess,
    FilesystemMount,
    ResolvedMount,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
)
from alcove.testing.fake_files import FakeFiles


class FakeSession:
    """A session's state: the spec it was made of, and what calls changed since."""

    def __init__(self, session_id: SandboxSessionId, spec: SandboxSpec, files: FakeFiles) -> None:
        self.id = session_id
        self.spec = spec
        self.files = files
        self.state = SandboxState.RUNNING
        self.parent = ""
        self.policy = spec.network_policy
        self.memory_replaced = False
        self.mounts: list[ResolvedMount] = []
        self._add(MEMORY_MOUNT, FilesystemAccess.READ_ONLY)
        self._add(OUTPUTS_MOUNT, FilesystemAccess.READ_WRITE)

    def attach(self, mount: FilesystemMount) -> ResolvedMount:
        """Add `mount`, or put it in the memory mount's place, once."""
        taken = [entry.target for entry in self.mounts]
        if not self.memory_replaced:
            taken.remove(MEMORY_MOUNT)
        target = rules.validate_mount(mount, taken)
        if not rules.replaces_memory_mount(target):
            return self._add(target, mount.access)
        self.memory_replaced = True
        self.mounts[0] = ResolvedMount(MEMORY_MOUNT, mount.access)
        self.files.mount(MEMORY_MOUNT, mount.access)
        return self.mounts[0]

    def _add(self, target: str, access: FilesystemAccess) -> ResolvedMount:
        self.files.mount(rules.collapsed_mount_target(target), access)
        self.mounts.append(ResolvedMount(target, access))
        return self.mounts[-1]

    def told(self, backend: str) -> SandboxSession:
        """Return the session as callers see it."""
        network = "none: no process of this session exists"
        metadata = {"root": "memory", "isolation": "none", "network": network, "limits": "wall_time"}
        return SandboxSession(self.id, backend, self.state, self.mounts, metadata, self.spec.labels)


class FakeSnapshot:
    """A snapshot's files, and what is told of it."""

    def __init__(self, told: SandboxSnapshot, files: FakeFiles) -> None:
        self.told = told
        self.files = files
