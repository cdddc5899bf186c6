"""`LocalSandbox`: the contract's calls on this machine."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from alcove.contract import (
    ExecRequest,
    ExecResult,
    FilesystemMount,
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxCapabilities,
    SandboxError,
    SandboxIoError,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    Unrestricted,
    Unsupported,
    fields,
)
from alcove.contract.rules import (
    replaces_memory_mount,
    validate_exec,
    validate_mount,
    validate_policy,
    validate_spec,
)
from alcove.contract.types import HOST_ROOTFS
from alcove.local import host, native
from alcove.local.cell import landlock, limits
from alcove.local.cell.layout import EGRESS_LOG
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import reserve
from alcove.local.exec import requests
from alcove.local.exec.execs import Execs
from alcove.local.exec.execution import Execution, MakeExecution
from alcove.local.interruption import done_whole
from alcove.local.mounts.mounting import Mounter
from alcove.local.network.networking import change_policy
from alcove.local.sessions import LiveSession, Sessions, decoded, snapshot_of
from alcove.local.snapshots import lineage
from alcove.local.snapshots.lineage import LineageNode
from alcove.local.snapshots.snapshots import Snapshots
from alcove.local.store import Store
from alcove.local.sweeping import sweep

if TYPE_CHECKING:
    from alcove.changes import Applied, Change
    from alcove.egress.audit import Record
    from alcove.local.disk.usage import StoreUsage
    from alcove.local.snapshots.transfer import Exported, Place, Transfer
    from alcove.state.limits import ImportLimits


class LocalSandbox:
    """Sessions on this Linux machine, without a daemon: they outlive the process that made them.

    Raises:
        SandboxIoError: the store cannot be opened.
        LifecycleError: the native launcher is not there or does not run.
    """

    name = "local"

    def __init__(self, config: LocalSandboxConfig | None = None) -> None:
        self.config = config or LocalSandboxConfig()
        self._store = Store(self.config.root_dir)
        launcher = self.config.native or str(native.find())
        try:
            self._host = host.read(self._store.root, launcher)
        except OSError as error:
            raise SandboxIoError(f"this host could not be read: {error}") from None
        if self.config.rootfs == "owned" and not self._host.root:
            raise LifecycleError("rootfs `owned` needs root: a plain user has no ids to own the host's files with")
        self._mounter = Mounter(self.config, self._store.root, self._host, launcher)
        self._sessions = Sessions(self.config, self._store, self._host, launcher, self._mounter)
        self._snapshots = Snapshots(self._store, self._sessions, self.config)
        self._execs = Execs(self.config, self._sessions)
        self._swept = False

    def capabilities(self) -> SandboxCapabilities:
        """What this backend can enforce, here and now."""
        return SandboxCapabilities(
            local_process_sandbox=True,
            network_policy=self._host.redirects,
            snapshot=self._host.layers,
            resume=True,
            suspend_on_idle=True,
        )

    async def recover(self) -> None:
        """Take away what a kill -9 or a power cut left half made or half removed; the first `provision` does it too.

        Sessions that live are left alone, and those whose processes are gone stay, suspended.

        Raises:
            LifecycleError: something of a session cannot be removed; all else is.
            OSError: something that is no session's cannot be removed.
            SandboxIoError: the store cannot be read or written.
        """
        self._swept = True
        await sweep(self._store, self._sessions)

    async def aclose(self) -> None:
        """Let go of the store; sessions live on."""
        self._store.close()

    # Sessions

    async def provision(self, spec: SandboxSpec, /) -> SandboxSession:
        """Make a session; see `SandboxBackend.provision`."""
        return await self._provision(spec, None)

    async def _provision(self, spec: SandboxSpec, parent: str | None) -> SandboxSession:
        validate_spec(spec)
        self._refuse_policy(spec.network_policy, best_effort=spec.best_effort)
        reference = snapshot_of(spec)
        if spec.rootfs != "host" and reference is None:
            raise Unsupported(self.name, f"the root file system `{spec.rootfs}`; it has `host` and `snapshot:ID`")
        requests.effective_user(spec.user, ranged=self._host.root)
        enforced = limits.decide(self._host, self.config, spec)
        for mount in spec.mounts:
            self._mounter.check(mount, spec)
        if not self._swept:
            with suppress(OSError, SandboxError):  # what cannot be taken away now hinders no new session
                await self.recover()
        reserve.check(self._store.root, self.config)
        if reference is not None:
            await self._snapshots.ready(reference)
        live = await self._sessions.make(spec, enforced, parent)
        try:
            await self._sessions.watch(live)
        except BaseException:
            await asyncio.shield(self._sessions.end(live))
            raise
        return live.view(SandboxState.PROVISIONED)

    def _refuse_policy(self, policy: Unrestricted | Limited, *, best_effort: bool) -> None:
        if isinstance(policy, Limited) and policy.allowed_hosts:
            from alcove.local.network import egress

            egress.parsed(policy, self.config.egress)
            if not self._host.redirects:
                raise Unsupported(
                    self.name, "allow-lists on this host, whose kernel has no nftables NAT: `alcove doctor`"
                )
        if isinstance(policy, Unrestricted) and self._host.landlock_abi < landlock.ABI_WITH_SCOPES and not best_effort:
            raise Unsupported(
                self.name,
                "the host's network on this kernel: without Landlock ABI 6 (Linux 6.12) a guest could reach the "
                "host's abstract sockets; use a limited policy, or allow best_effort",
            )

    async def terminate(self, session_id: str, /) -> None:
        """End the session and everything in it; a second call for a known id returns."""
        live = self._sessions.known(SandboxSessionId(session_id))
        if live is not None:
            try:
                await asyncio.shield(self._sessions.end(live))
            except OSError as error:
                raise LifecycleError(f"session `{session_id}` could not be ended: {error}; try again") from None

    def session(self, session_id: str) -> SandboxSession:
        """The session as it is now; a terminated one for a day after its end.

        Raises:
            SessionNotFound: there is none of that id.
        """
        row = self._store.find(SandboxSessionId(session_id))
        if row is None or not self._sessions.is_whole(row):
            raise SessionNotFound(session_id)
        return self._sessions.view(row)

    def sessions(self, *, ended: bool = False) -> list[SandboxSession]:
        """Every session of this store, the oldest first; with `ended`, terminated ones too."""
        rows = self._store.sessions(ended=ended)
        return [self._sessions.view(row) for row in rows if self._sessions.is_whole(row)]

    def usage(self, looked: Callable[[int], None] | None = None) -> "StoreUsage":
        """What the store takes of its disk, and who; `looked` is told how many files were looked at, as that goes on.

        Raises:
            SandboxIoError: the store cannot be read.
        """
        from alcove.local.disk import usage

        return usage.read(self._store, self.config, looked)

    # Snapshots

    async def snapshot(
        self, session_id: str, /, *, name: str | None = None, progress: Callable[[int], None] | None = None
    ) -> SandboxSnapshot:
        """Keep what the session has changed so far: its workspace, /tmp, outputs, and a root that it owns.

        Without a process in the session this takes the same time however much that is; else all is frozen while it is
        copied, and `progress` is called with each number of bytes.

        Raises:
            InvalidRequest: `name` cannot be, or another snapshot has it.
            LifecycleError: processes run in the session, and this host cannot freeze them.
            SandboxIoError: there is no room for it; the session has lost nothing.
        """
        live = self._sessions.live(session_id)
        self._refuse_snapshots()
        return self._snapshots.view(await self._snapshots.take(live, name, progress))

    def snapshots(self) -> list[SandboxSnapshot]:
        """Every snapshot of this store, the oldest first."""
        return self._snapshots.all()

    def find_snapshot(self, reference: str) -> SandboxSnapshot:
        """The snapshot of an id or a name.

        Raises:
            InvalidRequest: there is none.
        """
        return self._snapshots.view(self._snapshots.find(reference))

    def name_snapshot(self, reference: str, name: str | None) -> SandboxSnapshot:
        """Give a snapshot a name, another one, or none.

        Raises:
            InvalidRequest: there is no such snapshot, or the name cannot be or is taken.
        """
        return self._snapshots.rename(reference, name)

    async def delete_snapshot(self, reference: str) -> None:
        """Delete a snapshot. Sessions and snapshots that were made from it keep what they need of it.

        Raises:
            InvalidRequest: there is no such snapshot.
        """
        await self._snapshots.delete(reference)

    def snapshot_users(self, reference: str) -> list[LineageNode]:
        """The sessions and the other snapshots that keep files of a snapshot, and do so after its deletion too.

        Raises:
            InvalidRequest: there is no such snapshot.
        """
        return lineage.users(self._store, self._sessions, self._snapshots, reference)

    def lineage(self) -> list[LineageNode]:
        """Every session that has not ended and every snapshot, each with its parent, the oldest first."""
        return lineage.lineage(self._store, self._sessions, self._snapshots)

    def fork_spec(self, session_id: str, /) -> SandboxSpec:
        """The spec that a fork of the session has unless it is given another; see `Forks.fork_spec`."""
        self._sessions.live(session_id)
        # as the store has it: another process may have changed the policy since we looked
        spec, _ = decoded(self._store.live(session_id))
        return replace(spec, session_id=None, rootfs=HOST_ROOTFS)

    async def export_snapshot(
        self,
        reference: str,
        out_file: "Place",
        /,
        *,
        compression: Literal["zstd", "gzip", "none"] = "zstd",
        flat: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> "Exported":
        """Write a snapshot as an OCI image layout in one tar archive: a file is there whole at the end, or not at all.

        `flat` makes one layer of all: what was deleted later is not in it. `progress` is called with each number of
        bytes packed, in another thread.

        Raises:
            InvalidRequest: there is no such snapshot; or zstd is wanted and not installed.
            LifecycleError: a layer of it is gone, or is not what was sealed.
            SandboxIoError: there is no room for it, or something cannot be read or written.
        """
        from alcove.state.compression import Compression

        kind = fields.member(compression, "compression", Compression)
        return await self._transfer().export(reference, out_file, kind, progress, flat=flat)

    async def import_snapshot(
        self,
        in_file: "Place",
        /,
        *,
        name: str | None = None,
        set_id: bool = False,
        limits: "ImportLimits | None" = None,
        progress: Callable[[int], object] | None = None,
    ) -> SandboxSnapshot:
        """Make a snapshot of an archive, by whomever it was written; on any failure nothing of it is left.

        `set_id` takes set-id files in, which are refused otherwise. `progress` is called with each number of bytes read
        of the archive, which is read three times, in another thread.

        Raises:
            InvalidRequest: the archive is refused, damaged, too large; or the name cannot be, or is taken.
            SandboxIoError: there is no room for it, or something cannot be read or written.
        """
        self._refuse_snapshots()
        return await self._transfer().import_(in_file, name, limits, progress, set_id=set_id)

    def _transfer(self) -> "Transfer":
        from alcove.local.snapshots.transfer import Transfer

        return Transfer(self.config, self._store, self._snapshots, self._sessions.layers, root=self._host.root)

    async def fork(self, session_id: str, /, spec: SandboxSpec | None = None) -> SandboxSession:
        """Make another session that begins with what this one has; without a spec it is as `fork_spec` says.

        Raises:
            InvalidRequest: the spec names a root file system of its own.
            LifecycleError: as `snapshot` and `provision`.
        """
        live = self._sessions.live(session_id)
        self._refuse_snapshots()
        wanted = spec or self.fork_spec(session_id)
        if wanted.rootfs != HOST_ROOTFS:
            raise InvalidRequest(
                f"a fork begins with its session's files, not with `{wanted.rootfs}`; leave rootfs out"
            )
        return await self._snapshots.fork(live, wanted, self._provision)

    def _refuse_snapshots(self) -> None:
        if not self._host.layers:
            raise Unsupported(self.name, "snapshots on this kernel: as root they need idmapped mounts (Linux 5.19)")

    # Sleep

    async def suspend(self, session_id: str, /) -> SandboxSession:
        """Put a session to sleep: without processes nothing of it stays in memory, else they stand still.

        The next exec or attach wakes it by itself, and what is frozen a change of the network too. Time in which it
        sleeps is no wall time.

        Raises:
            LifecycleError: processes run in it, and this host cannot freeze them.
        """
        live = self._sessions.live(session_id)
        await asyncio.shield(self._sessions.suspend(live))
        return self.session(live.id)

    async def checkpoint(self, session_id: str, /) -> SandboxSnapshot:
        """Refused on every host, with the reason: a snapshot keeps files, and running processes can only be frozen.

        Raises:
            Unsupported: always.
        """
        from alcove.local.sleep import checkpoint

        self._sessions.live(session_id)
        why = await asyncio.to_thread(checkpoint.why_not)
        raise Unsupported(self.name, f"checkpoints of running processes: {why}; `suspend` freezes them until a reboot")

    async def resume(self, session_id: str, /) -> SandboxSession:
        """Wake a session up; see `SandboxBackend.resume`. Processes that were killed do not come back, files do."""
        live = self._sessions.live(session_id)
        await self._sessions.restart(live)
        return self.session(live.id)

    # Exec

    async def exec(self, session_id: str, request: ExecRequest, /) -> ExecResult:
        """Run a command to its end; see `SandboxBackend.exec`."""
        return await self._exec(session_id, request, Execution)

    async def _exec(self, session_id: str, request: ExecRequest, make: MakeExecution) -> ExecResult:
        validate_exec(request)
        live = self._sessions.live(session_id)
        requests.effective_user(request.user or live.spec.user, ranged=self._host.root)
        await self._sessions.policies.keep_served(live)
        await self._sessions.keep_watched(live)
        return await self._execs.run(live, request, make)

    # Mounts

    async def attach_filesystem(self, session_id: str, mount: FilesystemMount, /) -> SandboxSession:
        """Add a mount to a live session; see `SandboxBackend.attach_filesystem`."""
        live = self._sessions.live(session_id)
        validate_mount(mount)
        self._mounter.check(mount, live.spec)
        async with self._sessions.awake(live):
            view = live.view(SandboxState.RUNNING)
            taken = [resolved.target for resolved in view.mounts if not replaces_memory_mount(resolved.target)]
            validate_mount(mount, [*taken, *(attached.target for attached in live.record.attached)])
            await done_whole(self._attach(live, mount))
        await self._sessions.watch_again(live)
        return live.view(SandboxState.RUNNING)

    async def _attach(self, live: LiveSession, mount: FilesystemMount) -> None:
        await self._mounter.attach(live, mount)
        self._sessions.save(live)

    # Copy-on-write mounts

    async def changes(
        self,
        session_id: str,
        /,
        paths: Collection[str | os.PathLike[str]] | None = None,
        *,
        target: str | None = None,
        patch: bool = False,
    ) -> list["Change"]:
        """Tell what a session changed of the directories that it has by copy-on-write, while it runs or not.

        Of all such mounts or of the one at `target`; of everything in it or of what is at and beneath `paths`, which
        are relative to it or begin with its target. With `patch` each change has its text.

        Raises:
            SessionNotFound: there is none.
            InvalidRequest: it has no such mount, or a path lies in none.
            LifecycleError: the host's directory is another one now.
            SandboxIoError: something cannot be read, or there is too much of it.
        """
        from alcove.local.mounts import projects

        return await projects.changes(self._sessions, session_id, paths, target, patch=patch)

    async def diff(
        self, session_id: str, /, paths: Collection[str | os.PathLike[str]] | None = None, *, target: str | None = None
    ) -> str:
        """Return what `changes` tells as one text, which `git apply` and `patch -p1` read in the directory.

        Raises:
            As `changes`.
        """
        return "".join(
            change.patch or "" for change in await self.changes(session_id, paths, target=target, patch=True)
        )

    async def apply(
        self, session_id: str, /, paths: Collection[str | os.PathLike[str]] | None = None, *, target: str | None = None
    ) -> "Applied":
        """Write a session's changes to the host: all of one mount, or those at and beneath `paths`.

        Where one chosen path changed on the host since the session began with it, nothing is written. Set-id bits,
        devices, owners and attributes never arrive, and what git on the host would run only where `paths` names it
        itself. What runs in the session stands still meanwhile.

        Raises:
            SessionNotFound: there is none.
            InvalidRequest: it has no such mount or several, or nothing changed at one of `paths`.
            LifecycleError: something runs in it and cannot be frozen, or the host's directory is another one now.
            Conflict: somebody else is applying to this directory.
            SandboxIoError: something cannot be read or written; what was written stays.
        """
        from alcove.local.mounts import projects

        return await projects.apply(self._sessions, session_id, paths, target)

    async def discard(self, session_id: str, /, *, target: str | None = None) -> None:
        """Forget what a session changed of a directory: it sees the host's again, as that is now.

        Raises:
            SessionNotFound: there is none.
            InvalidRequest: it has no such mount, or several.
            LifecycleError: something runs in it.
            SandboxIoError: the store cannot be written.
        """
        from alcove.local.mounts import projects

        await projects.discard(self._sessions, self._mounter, session_id, target)

    # The network

    async def apply_network_policy(self, session_id: str, policy: Unrestricted | Limited, /) -> SandboxSession:
        """Put another policy in force; see `SandboxBackend.apply_network_policy`."""
        validate_policy(policy)
        return await self._change_policy(session_id, lambda _: policy)

    async def change_allow_list(
        self, session_id: str, /, *, allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> SandboxSession:
        """Add entries to the allow-list of a live session, and take others out; nothing else of it changes.

        Raises:
            InvalidRequest: an entry cannot be, one in `deny` is not there, or the session has the host's network.
            NetworkPolicyError: it could not be put in force; the old one stays.
        """
        from alcove.egress.amendment import amended
        from alcove.egress.settings import fake

        added, removed = tuple(allow), tuple(deny)

        def change(policy: Unrestricted | Limited) -> Limited:
            if isinstance(policy, Unrestricted):
                raise InvalidRequest(
                    f"session `{session_id}` shares the host's network and has no allow-list; "
                    f"take that network away first: alcove net {session_id} none"
                )
            return Limited(amended(policy.allowed_hosts, added, removed, fake(self.config.egress)))

        return await self._change_policy(session_id, change)

    async def _change_policy(
        self, session_id: str, change: Callable[[Unrestricted | Limited], Unrestricted | Limited]
    ) -> SandboxSession:
        live = self._sessions.live(session_id)
        await change_policy(self._sessions, live, change, self._refuse_policy)
        return self.session(session_id)

    def network_log(self, session_id: str, /, *, since: datetime | None = None) -> Iterator["Record"]:
        """Yield what a session with an allow-list tried, the oldest first, and what became of it.

        Raises:
            SessionNotFound: there is none; its log went with it.
            SandboxIoError: the log cannot be read.
        """
        path = self._log(session_id)
        if not os.path.exists(path):
            return iter(())
        from alcove.egress import audit

        return audit.read(path, since)

    def follow_network_log(self, session_id: str, /, *, since: datetime | None = None) -> AsyncIterator["Record"]:
        """Yield what `network_log` does, then what is tried from now on, until the session ends.

        Raises:
            SessionNotFound: there is none.
            SandboxIoError: the log cannot be read.
        """
        from alcove.egress import audit

        path = self._log(session_id)
        directory = os.path.dirname(path)
        return audit.follow(path, since, over=lambda: not os.path.isdir(directory))

    def _log(self, session_id: str) -> str:
        return f"{self._sessions.live(session_id).directory}/{EGRESS_LOG}"
