"""A session's network policy in another's place: by list on a session that lives, of another kind by new processes."""

from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from alcove.contract import Limited, NetworkPolicyError, SandboxError, SandboxSpec, Unrestricted
from alcove.local.cell import processes
from alcove.local.sessions import LiveSession, Sessions
from alcove.local.sleep import freezer

Policy = Unrestricted | Limited


class Refuse(Protocol):
    """Refuses a policy that cannot be enforced here."""

    def __call__(self, policy: Policy, /, *, best_effort: bool) -> None: ...


async def change_policy(
    sessions: Sessions, live: LiveSession, change: Callable[[Policy], Policy], refuse: Refuse
) -> None:
    """Put what `change` makes of a session's policy in force.

    Raises:
        NetworkPolicyError: it could not be; the old one stays.
    """
    async with live.lock, sessions.locked(live):
        sessions.refresh(live)
        await sessions.suspension.wake(live)
        before = live.spec
        policy = change(before.network_policy)
        refuse(policy, best_effort=before.best_effort)
        switch = type(policy) is not type(before.network_policy)
        if switch:
            await _stop_if_idle(live)
            _save(sessions, live, replace(before, network_policy=policy))
        elif isinstance(policy, Limited):
            await sessions.policies.change(live, policy)
    if switch:
        await _start_on(sessions, live, policy, before)
    else:
        await sessions.watch_again(live)


async def _start_on(sessions: Sessions, live: LiveSession, policy: Policy, before: SandboxSpec) -> None:
    """A process keeps the network it was born in: the session's processes are made anew, over its files."""
    try:
        await sessions.restart(live)
    except SandboxError as error:
        try:
            if not await _restored(sessions, live, policy, before):
                return
        except SandboxError as again:
            raise NetworkPolicyError(
                f"{error}; and the old policy cannot be written down again ({again}): the next command has the new one"
            ) from None
        raise NetworkPolicyError(f"the old policy stays: {error}") from None


async def _restored(sessions: Sessions, live: LiveSession, policy: Policy, before: SandboxSpec) -> bool:
    """Write the old policy down again; False: somebody else has brought the session back on the new one meanwhile."""
    async with live.lock, sessions.locked(live):
        sessions.refresh(live)
        if processes.alive(live.record.processes):
            return False
        if live.spec.network_policy == policy:  # else somebody has changed it since: that is theirs
            _save(sessions, live, before)
        return True


def _save(sessions: Sessions, live: LiveSession, spec: SandboxSpec) -> None:
    live.spec = spec
    live.record = replace(live.record, processes=None)
    sessions.save(live, spec=True)


async def _stop_if_idle(live: LiveSession) -> None:
    if not processes.alive(live.record.processes):
        return
    try:
        reply = await freezer.end_if_empty(live.directory)
    except (OSError, TimeoutError) as error:
        raise NetworkPolicyError(f"session `{live.id}` does not answer: {error}") from None
    if reply.error:
        raise NetworkPolicyError(
            f"{reply.processes or reply.execs} processes run in session `{live.id}`, and a process keeps the "
            "network it was born with: end them, or make a new session"
        )
    await processes.stop(live.record.processes, live.record.groups)
