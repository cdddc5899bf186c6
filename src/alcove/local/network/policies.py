"""Network policies of sessions: put in force with their processes, changed under them, served as long as they live."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from alcove.contract import Limited, NetworkPolicyError, SandboxSpec
from alcove.egress.config import EgressConfig
from alcove.local.cell import processes
from alcove.local.records import Egress

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession


class Save(Protocol):
    """Writes a session's record, and its spec where that changed."""

    def __call__(self, live: "LiveSession", /, *, spec: bool = False) -> None: ...


class Policies:
    """The allow-lists of one store's sessions; what enforces them is loaded for the first of them."""

    def __init__(self, root: str, settings: EgressConfig, save: Save) -> None:
        self._root = root
        self._settings = settings
        self._save = save

    def early(self, live: "LiveSession") -> Callable[[], None] | None:
        """Ask a warden that is being made for what an allow-list needs, so that it is there when the session is."""
        if not _has_list(live):
            return None
        from alcove.local.network import egress

        def ask() -> None:
            live.asked = egress.ask_early(live, self._served(live))

        return ask

    async def open(self, live: "LiveSession") -> None:
        """Let a session with new processes reach what its policy allows.

        Raises:
            NetworkPolicyError: it cannot be put in force.
        """
        if not _has_list(live):
            return
        from alcove.local.network import egress

        asked, live.asked = live.asked, None
        opened = await egress.open_up(self._root, live, self._served(live), asked)
        live.record = replace(live.record, egress=opened)

    async def keep_served(self, live: "LiveSession") -> None:
        """See to it that somebody serves a session's allow-list: the keeper is back with the next call, if it died.

        Without it the session reaches nothing, so that it does not start is the command's to notice.
        """
        if live.record.egress is not None and live.record.egress.prepared:
            from alcove.local import keeper

            with suppress(NetworkPolicyError, OSError):
                await keeper.ensure(self._root)

    async def change(self, live: "LiveSession", policy: Limited) -> None:
        """Put another allow-list in force, on a live session at once; under the session's lock.

        Raises:
            NetworkPolicyError: it cannot be; the old one stays.
        """
        before = live.spec
        live.spec = replace(before, network_policy=policy)
        self._save(live, spec=True)  # first: a service that is started anew meanwhile serves what the store says
        try:
            if processes.alive(live.record.processes):
                await self._change(live, policy, before)
        except BaseException:
            live.spec = before
            self._save(live, spec=True)
            raise

    async def _change(self, live: "LiveSession", policy: Limited, before: SandboxSpec) -> None:
        from alcove.local.network import egress

        if live.record.egress is None:
            await self.open(live)
        else:
            served = await egress.change(self._root, live, policy, before, live.record.egress)
            live.record = replace(live.record, egress=served)
        self._save(live)

    def _served(self, live: "LiveSession") -> Egress:
        """A session keeps the settings that it was first opened with, whoever brings it back."""
        return Egress(settings=live.record.egress.settings if live.record.egress else self._settings)


def _has_list(live: "LiveSession") -> bool:
    policy = live.spec.network_policy
    return isinstance(policy, Limited) and bool(policy.allowed_hosts)
