"""What a backend is: seven calls, and an honest word on what it can do."""

from typing import Protocol, runtime_checkable

from alcove.contract.types import (
    ExecRequest,
    ExecResult,
    FilesystemMount,
    Limited,
    SandboxCapabilities,
    SandboxSession,
    SandboxSnapshot,
    SandboxSpec,
    Unrestricted,
)


@runtime_checkable
class SandboxBackend(Protocol):
    """Runs untrusted commands in sessions.

    A session is named by its id, a `SandboxSessionId` or any other string. Every call but `provision` raises
    `InvalidRequest` for a blank id and `SessionNotFound` for one that names no live session. What cannot be enforced
    is refused, never left out in silence. Cancelling a call leaves nothing of it behind.
    """

    @property
    def name(self) -> str:
        """The backend's stable name, as written on its sessions."""

    def capabilities(self) -> SandboxCapabilities:
        """Return what this backend can enforce, here and now."""

    async def provision(self, spec: SandboxSpec, /) -> SandboxSession:
        """Make a session.

        Raises:
            InvalidRequest: the spec breaks a rule, or its id is in use.
            Unsupported: the spec asks for what this backend cannot do.
            LifecycleError: the session could not be made; nothing of it is left.
        """

    async def attach_filesystem(self, session_id: str, mount: FilesystemMount, /) -> SandboxSession:
        """Add a mount to a live session, seen by running commands and by the next.

        Raises:
            InvalidRequest: the mount breaks a rule, or its target is taken.
            SandboxIoError: the source cannot be reached.
        """

    async def apply_network_policy(self, session_id: str, policy: Unrestricted | Limited, /) -> SandboxSession:
        """Put `policy` in the place of the session's present one.

        Raises:
            Unsupported: this backend cannot enforce that policy.
            NetworkPolicyError: it could not be put in force; the old one stays.
        """

    async def exec(self, session_id: str, request: ExecRequest, /) -> ExecResult:
        """Run a command to its end; its failure, death or timeout is a result.

        Raises:
            InvalidRequest: the request breaks a rule.
            ExecError: the command could not be started, or its end could not be told.
        """

    async def snapshot(self, session_id: str, /) -> SandboxSnapshot:
        """Keep the session's files as they are now.

        Raises:
            Unsupported: this backend keeps none.
        """

    async def resume(self, session_id: str, /) -> SandboxSession:
        """Bring a suspended session back; a running one stays as it is.

        Raises:
            Unsupported: this backend suspends none.
        """

    async def terminate(self, session_id: str, /) -> None:
        """End the session and everything in it; a second call for a known id returns."""


@runtime_checkable
class KeepsSnapshots(Protocol):
    """A backend whose snapshots can be listed and deleted: an extension of the contract."""

    def snapshots(self) -> list[SandboxSnapshot]:
        """Return every snapshot, the oldest first."""

    async def delete_snapshot(self, reference: str, /) -> None:
        """Delete a snapshot; what was made from it lives on.

        Raises:
            InvalidRequest: there is none of that id.
        """


@runtime_checkable
class Forks(Protocol):
    """A backend that makes a session from another one in one step: an extension of the contract."""

    def fork_spec(self, session_id: str, /) -> SandboxSpec:
        """Return the spec that a fork of a session has unless it is given another: its own, without id and root.

        Raises:
            SessionNotFound: there is no such session.
        """

    async def fork(self, session_id: str, /, spec: SandboxSpec | None = None) -> SandboxSession:
        """Make a session that begins with another one's files; it is as `spec` says, or as the other.

        Raises:
            InvalidRequest: the spec names a root file system of its own.
            LifecycleError: it could not be made; nothing of it is left.
        """


@runtime_checkable
class Suspends(Protocol):
    """A backend that puts a session to sleep when told to: an extension of the contract."""

    async def suspend(self, session_id: str, /) -> SandboxSession:
        """Put a session to sleep until its next exec, attach or `resume`; one that sleeps is left at that.

        Raises:
            LifecycleError: what runs in the session cannot be put to sleep; it runs on.
        """
