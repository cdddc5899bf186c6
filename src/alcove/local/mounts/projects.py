"""A person's directory in a session by copy-on-write: what changed in it, and what becomes of that."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from alcove.changes import Applied, Change, Refusal
from alcove.contract import InvalidRequest, LifecycleError, SandboxIoError
from alcove.contract.rules import collapsed_mount_target
from alcove.local.copies import beside
from alcove.local.mounts import uppers
from alcove.local.mounts.mounting import Mounter
from alcove.local.mounts.rest import at_rest, end_cell
from alcove.local.records import Attached
from alcove.local.removal import remove_tree
from alcove.local.sessions import LiveSession, Sessions
from alcove.state import applying
from alcove.state import changes as found
from alcove.state.contents import Progress
from alcove.state.patches import unified_diff

#: Text of one diff; a guest can make any number of files.
_MOST_TEXT = 64 << 20

Paths = Collection[str | bytes | os.PathLike[str]] | None


class _Choice:
    """A mount, and the paths in it that somebody named; None: all of it."""

    def __init__(self, mount: Attached, paths: list[bytes] | None) -> None:
        self.mount = mount
        self.paths = paths

    def has(self, change: found.Change) -> bool:
        return self.paths is None or any(_lies_in(change, path) for path in self.paths)


async def changes(
    sessions: Sessions, session_id: str, paths: Paths, target: str | None, *, patch: bool
) -> list[Change]:
    """Tell what a session changed of the directories that it has by copy-on-write; see `LocalSandbox.changes`."""
    live = sessions.live(session_id)
    async with live.lock, sessions.locked(live):
        sessions.refresh(live)
        chosen = _chosen(live, paths, target)
    with _by_us():
        return await beside(lambda advance: list(_changes(live.directory, chosen, advance, patch=patch)))


async def apply(sessions: Sessions, session_id: str, paths: Paths, target: str | None) -> Applied:
    """Write a session's changes to the host; see `LocalSandbox.apply`."""
    live = sessions.live(session_id)
    with _by_us():
        async with live.lock, sessions.locked(live):
            sessions.refresh(live)
            choice = _one(live, _chosen(live, paths, target), "apply")
            outcome = None
            try:
                async with at_rest(sessions, live, choice.mount.target):
                    outcome = await beside(lambda _: _apply(live.directory, choice))
            except LifecycleError as error:
                if outcome is None:
                    raise
                raise LifecycleError(f"{error.detail}: what was applied stays, and the rest is applied again") from None
            return outcome


async def discard(sessions: Sessions, mounter: Mounter, session_id: str, target: str | None) -> None:
    """Forget a session's changes; see `LocalSandbox.discard`."""
    live = sessions.live(session_id)
    with _by_us():
        async with live.lock, sessions.locked(live):
            sessions.refresh(live)
            mount = _one(live, _chosen(live, None, target), "discard").mount
            await end_cell(sessions, live, mount.target)
            fresh = replace(mount, layer=mounter.layer(live, mount.source))
            attached = tuple(fresh if other.layer == mount.layer else other for other in live.record.attached)
            live.record = replace(live.record, attached=attached)
            sessions.save(live)  # from here on the changes are gone, whatever happens
            await beside(lambda _: _remove(uppers.unused(live.directory, attached)))


@contextmanager
def _by_us() -> Iterator[None]:
    """What the host refuses is told as ours; what was written stays, and doing it again goes on."""
    try:
        yield
    except OSError as error:
        raise SandboxIoError(f"{error.strerror or error}; try again once that is mended") from None


# Which


def _chosen(live: LiveSession, paths: Paths, target: str | None) -> list[_Choice]:
    mounts = [mount for mount in live.record.attached if mount.layer]
    if not mounts:
        raise InvalidRequest(
            f"session `{live.id}` has no copy-on-write mount; "
            f"give it one: alcove mount {live.id} ./project:/workspace/project:cow"
        )
    if target is not None:
        mounts = [mount for mount in mounts if _same(mount.target, target)] or _no_such(target, mounts)
    if paths is None:
        return [_Choice(mount, None) for mount in mounts]
    named = _named(paths)
    inside = {mount.target: [_within(mount, path) for path in named] for mount in mounts}
    choices = [
        _Choice(mount, [path for path in inside[mount.target] if path is not None])
        for mount in mounts
        if any(path is not None for path in inside[mount.target])
    ]
    for index, path in enumerate(named):
        if all(inside[mount.target][index] is None for mount in mounts):
            raise InvalidRequest(f"`{os.fsdecode(path)}` lies in no copy-on-write mount: {_listed(mounts)}")
    return choices


def _named(paths: Collection[str | bytes | os.PathLike[str]]) -> list[bytes]:
    if isinstance(paths, str | bytes | os.PathLike):
        raise InvalidRequest(f'paths are a list: write ["{os.fsdecode(paths)}"]')
    named = [os.fsencode(path) for path in paths]
    if not named:
        raise InvalidRequest("no path is named; leave `paths` out for all of them")
    if b"" in named:
        raise InvalidRequest("an empty path names nothing; `.` is all of a mount")
    return named


def _same(one: str, other: str) -> bool:
    return collapsed_mount_target(one) == collapsed_mount_target(other)


def _no_such(target: str, mounts: list[Attached]) -> list[Attached]:
    raise InvalidRequest(f"there is no copy-on-write mount at `{target}`; there is: {_listed(mounts)}")


def _listed(mounts: Iterable[Attached]) -> str:
    return ", ".join(mount.target for mount in mounts)


def _within(mount: Attached, path: bytes) -> bytes | None:
    """A path relative to a mount: as it is, or of one that begins with the mount's target."""
    if not path.startswith(b"/"):
        return os.path.normpath(path)
    relative = os.path.relpath(path, os.fsencode(collapsed_mount_target(mount.target)))
    return None if relative == b".." or relative.startswith(b"../") else relative


def _one(live: LiveSession, chosen: list[_Choice], verb: str) -> _Choice:
    if len(chosen) > 1:
        raise InvalidRequest(
            f"session `{live.id}` has several copy-on-write mounts ({_listed(choice.mount for choice in chosen)}); "
            f"say which to {verb}: --target {chosen[0].mount.target}"
        )
    return chosen[0]


def _lies_in(change: found.Change, path: bytes) -> bool:
    places = [place for place in (change.path, change.old_path) if place is not None]
    return path == b"." or any(place == path or place.startswith(path + b"/") for place in places)


# What


def _changes(session: str, chosen: Iterable[_Choice], advance: Progress, *, patch: bool) -> Iterator[Change]:
    left = _MOST_TEXT
    for choice in chosen:
        with uppers.opened(session, choice.mount) as upper:
            upper.look()
            some = [change for change in found.changes(upper.lower_fd, upper.upper_fd) if choice.has(change)]
            for change in some:
                advance(0)
                text = unified_diff(upper.lower_fd, upper.upper_fd, change) if patch else None
                left -= len(text or "")
                if left < 0:
                    raise SandboxIoError(f"the difference has more than {_MOST_TEXT >> 20} MiB; name paths")
                yield _told(choice.mount.target, change, text)


def _told(target: str, change: found.Change, patch: str | None = None) -> Change:
    entry = change.after or change.before
    return Change(
        target=target,
        kind=change.kind.value,
        path=os.fsdecode(change.path),
        type=entry.type.value if entry else "",
        old_path=None if change.old_path is None else os.fsdecode(change.old_path),
        mode=change.after.mode if change.after else None,
        old_mode=change.before.mode if change.before else None,
        binary=change.binary,
        patch=patch,
    )


def _apply(session: str, choice: _Choice) -> Applied:
    target = choice.mount.target
    with uppers.opened(session, choice.mount) as upper:
        base = upper.look()
        if choice.paths is not None:
            _refuse_unchanged(choice.paths, found.changes(upper.lower_fd, upper.upper_fd))
        outcome = applying.apply(upper.lower_fd, upper.upper_fd, choice.paths, base=base, keep=upper.keep)
        upper.keep(outcome.base)
    return Applied(
        tuple(_told(target, change) for change in outcome.applied),
        tuple(_refused(target, outcome.conflicts)),
        tuple(_refused(target, outcome.left)),
    )


def _refuse_unchanged(paths: Iterable[bytes], changed: Collection[found.Change]) -> None:
    for path in paths:
        if path != b"." and not any(_lies_in(change, path) for change in changed):
            raise InvalidRequest(f"the session changed nothing at `{os.fsdecode(path)}`; see: alcove diff")


def _refused(target: str, refusals: Iterable[applying.Refusal]) -> Iterator[Refusal]:
    for refusal in refusals:
        yield Refusal(target, os.fsdecode(refusal.path), refusal.reason)


def _remove(places: Iterable[str]) -> None:
    for place in places:
        remove_tree(place)
