"""What a session's processes live in, made anew whenever they are: groups, mounts and namespaces over its files."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from msgspec.structs import replace

from alcove.contract import LifecycleError, SandboxSpec, Unrestricted
from alcove.local.cell import cgroups, etc, layout, limits, overlays, places, plan, prepared
from alcove.local.cell.launch import Launcher, launch
from alcove.local.config import LocalSandboxConfig
from alcove.local.copies import beside
from alcove.local.disk import disk
from alcove.local.host import Host
from alcove.local.records import OWNED
from alcove.local.snapshots.layers import Layers
from alcove.local.store import ROOT_STORE

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession

Early = Callable[[], None] | None


class Cells:
    """Makes the cells of one store's sessions."""

    def __init__(self, config: LocalSandboxConfig, root: str, host: Host, native: str, layers: Layers) -> None:
        self._config = config
        self._root = root
        self._host = host
        self._native = native
        self._layers = layers
        # a plain user can make no device nodes
        self._prepared = prepared.generate(root, host.cpus) if host.root else None
        self.layout = self._layout(owned=config.rootfs == "owned")
        self._etc = {
            shared: etc.generate(root, nameserver=None if shared else config.egress.resolver, users=host.root)
            for shared in (False, True)
        }

    def _layout(self, *, owned: bool) -> layout.Layout:
        return layout.decide(
            root=self._host.root,
            owned=owned,
            visible=self._config.visible,
            hidden=(*self._config.hidden, os.path.realpath(self._root), ROOT_STORE),
            cpus=self._host.cpus,
            prepared=self._prepared,
        )

    def launcher(self, key: str, spec: SandboxSpec) -> Launcher:
        """Start the launcher of a session: it begins at once.

        Raises:
            LifecycleError: it does not start.
        """
        # a net namespace takes the kernel longest, and needs no plan
        early = () if isinstance(spec.network_policy, Unrestricted) else ("network",)
        try:
            return Launcher(self._native, "warden", key, *early)
        except OSError as error:
            raise LifecycleError(f"the session could not be made: {error}") from None

    async def start(
        self, live: "LiveSession", enforced: limits.Enforced, launcher: Launcher, early: Early, *, closed: bool
    ) -> None:
        """Make a session's cell by a launcher that has begun; what is asked `early` is the first that it serves.

        With `closed`, nobody begins an exec in it before somebody has opened its doors.

        Raises:
            LifecycleError: a step failed; nothing is left running.
            OSError: a directory or a group cannot be made.
        """
        try:
            below = self._layers.below(live.record.layers) if live.record.layers else {}
            with await self._attached(live) as attached:
                made = self._plan(live, enforced, below, attached.device if attached else None)
                launcher.plan(made.encoded)
                if attached is None:
                    await self._make_directories(live, below, live.directory)
                else:
                    with attached.opened() as own:
                        await self._make_directories(live, below, own, fresh=attached.fresh)
                running = await launch(launcher, live.directory, early, closed=closed)
            live.record = replace(live.record, processes=running, isolation=made.isolation)
            if live.record.root == OWNED or below:
                overlays.check_overlays(running.warden)
        except BaseException:
            launcher.abandon()
            live.drop_asked()
            raise

    async def _make_directories(
        self, live: "LiveSession", below: dict[str, tuple[str, ...]], own: str, *, fresh: bool = False
    ) -> None:
        """While the launcher is at work: it waits before the first step that needs them."""
        fresh |= places.make(
            live.directory,
            f"{self._root}/layers",
            below,
            owned_root=live.record.root == OWNED,
            owner=None if self._host.idmap else live.base_id,
            own=own,
        )
        if fresh and live.record.layers and (outputs := self._layers.outputs(live.record.layers)):
            from alcove.local.snapshots import sealing

            await asyncio.to_thread(sealing.bring_outputs, outputs, own)

    async def _attached(self, live: "LiveSession") -> AbstractContextManager[disk.Disk | None]:
        """The session's own disk, for whoever is to mount it."""
        if not live.record.disk or live.spec.disk_mb is None:
            return nullcontext()
        megabytes, done = live.spec.disk_mb, ExitStack()
        try:
            return await beside(lambda _: done.enter_context(disk.attach(self._root, live.directory, megabytes)))
        except asyncio.CancelledError:
            done.close()  # it may have been attached all the same
            raise

    @asynccontextmanager
    async def own_files(self, live: "LiveSession") -> AsyncIterator[str]:
        """The directory in which what the session's guest wrote lies, for as long as this lasts; under its lock."""
        with await self._attached(live) as attached:
            if attached is None:
                yield live.directory
                return
            with attached.opened() as own:
                yield own

    def _etc_of(self, live: "LiveSession") -> str:
        if isinstance(live.spec.network_policy, Unrestricted):
            return self._etc[True]
        egress = live.record.egress
        if egress is None or egress.settings.resolver == self._config.egress.resolver:
            return self._etc[False]
        # it keeps the settings that it was first opened with, whoever brings it back
        return etc.generate(self._root, nameserver=egress.settings.resolver, users=self._host.root)

    def _plan(
        self, live: "LiveSession", enforced: limits.Enforced, below: dict[str, tuple[str, ...]], device: str | None
    ) -> plan.LaunchPlan:
        """What the launcher is to do, with the groups made."""
        groups = cgroups.create(self._host.hierarchies, live.key, enforced.groups)
        memory = self._config.memory_dir or f"{live.directory}/memory"
        live.record = replace(
            live.record,
            groups=groups,
            limits=enforced.told,
            memory=memory,
            idmap=self._host.idmap,
        )
        own = layout.SessionPlaces(
            directory=f"{live.directory}/{disk.PLACE}" if device else live.directory,
            layers=f"{self._root}/layers",
            below=below,
            memory=memory,
            memory_is_own=self._config.memory_dir is None,
            etc=self._etc_of(live),
            identity=etc.identity(live.key),
            idmap=self._host.idmap,
            base_id=live.base_id,
            # memory that no kill frees: half of the limit, so that what runs has the rest
            shm_bytes=enforced.groups.memory // 2 if enforced.groups.memory else None,
            device=device,
        )
        owned = live.record.root == OWNED
        shown = self.layout if owned == self.layout.owned else self._layout(owned=owned)
        return plan.build(self._host, live.spec, shown, own, groups, enforced.resources, live.base_id)
