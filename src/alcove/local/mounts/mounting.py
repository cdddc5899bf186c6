"""Mounts on a live session: by its warden, or for root by a porter that has the caller's own rights."""

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from alcove.contract import FilesystemAccess, FilesystemMount, InvalidRequest, SandboxIoError, SandboxSpec, Unsupported
from alcove.local.cell import control, overlays, processes
from alcove.local.cell.launch import CONTROL_SOCKET, Launcher, connect
from alcove.local.cell.operations import Kind, Tree, operation
from alcove.local.config import LocalSandboxConfig
from alcove.local.host import Host
from alcove.local.mounts import attachments
from alcove.local.mounts.attachments import Source
from alcove.local.records import Attached
from alcove.local.removal import remove_tree

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Mounter:
    """Makes mounts for the sessions of one store."""

    def __init__(self, config: LocalSandboxConfig, store_root: str, host: Host, native: str) -> None:
        self._config = config
        self._store_root = store_root
        self._host = host
        self._native = native

    def check(self, mount: FilesystemMount, spec: SandboxSpec) -> None:
        """Refuse early what `attach` would refuse.

        Raises:
            InvalidRequest: source or target is a place that no session may have.
            SandboxIoError: the source is not there.
        """
        attachments.check_target(mount.target)
        if mount.copy_on_write and not mount.source:
            raise InvalidRequest(
                f"mount target `{mount.target}`: copy_on_write needs a source; a fresh directory can be read_write"
            )
        if mount.source:
            os.close(self._open(mount, spec).fd)

    async def attach(self, live: "LiveSession", mount: FilesystemMount) -> None:
        """Add a mount to a session and to its record.

        Raises:
            SandboxIoError: it could not be made; nothing of it is left.
            Unsupported: it would be outside of the session's disk limit.
        """
        target = attachments.check_target(mount.target)
        fresh = not mount.source and mount.access is FilesystemAccess.READ_WRITE
        if live.record.disk and (fresh or mount.copy_on_write):
            kind = "fresh read-write directory" if fresh else "copy-on-write mount"
            raise Unsupported(
                "local", f"a {kind} in a session with `disk_mb`, which would not bound it: use a place below /workspace"
            )
        source = mount.source or self._fresh_directory(live)
        layer = self.layer(live, source) if mount.copy_on_write else ""
        attached = Attached(source=source, target=target, access=mount.access, own=not mount.source, layer=layer)
        try:
            await self.mount(live, attached)
        except BaseException:
            if not mount.source:
                with suppress(OSError):
                    os.rmdir(source)
            if layer:
                remove_tree(f"{live.directory}/{layer}")
            raise

    def layer(self, live: "LiveSession", source: str) -> str:
        """Make a place for the changes of a copy-on-write mount, and return its name in the session's directory.

        Raises:
            SandboxIoError: it cannot be made.
        """
        from alcove.local.mounts import uppers

        try:
            return uppers.make(live.directory, source, self._owner(live))
        except OSError as error:
            raise SandboxIoError(f"mount of `{source}`: {error.strerror}") from None

    def _owner(self, live: "LiveSession") -> int | None:
        """Who owns the session's directories, unless it is we: their ids on disk are its own, or counted from 0."""
        return None if self._host.idmap else live.base_id

    def _fresh_directory(self, live: "LiveSession") -> str:
        path = f"{live.directory}/mount-{secrets.token_hex(4)}"
        try:
            os.mkdir(path)
            os.chmod(path, 0o777)  # noqa: S103 - for every user of the session; the store around it is ours alone
            if (owner := self._owner(live)) is not None:
                os.chown(path, owner, owner)
        except OSError as error:
            with suppress(OSError):
                os.rmdir(path)
            raise SandboxIoError(f"a fresh directory for the session: {error.strerror}") from None
        return path

    async def mount(self, live: "LiveSession", attached: Attached, *, again: bool = False) -> None:
        """Make one mount, new or `again` after a restart: what was allowed when it was attached stays so.

        Raises:
            SandboxIoError: it could not be made.
        """
        source = self._open_own(attached) if attached.own else self._open(_as_mount(attached), live.spec, again=again)
        try:
            if again and not attached.own:
                _check_same(attached, source)
            reply = await self._request(live, attached, source)
        except (OSError, TimeoutError) as error:
            raise SandboxIoError(f"mount of `{attached.source}`: {str(error) or 'no answer in time'}") from None
        finally:
            os.close(source.fd)
        if reply.error or reply.step:
            raise SandboxIoError(
                f"mount of `{attached.source}` at `{attached.target}`: {reply.step}: {os.strerror(reply.error)}"
                f"{_ADVICE.get(reply.step, '')}"
            )
        if attached.layer:
            await self._check_overlay(live)
        mounted = replace(attached, source=source.path, owner=source.uid)
        live.record = replace(live.record, attached=(*live.record.attached, mounted))

    async def _check_overlay(self, live: "LiveSession") -> None:
        """Look at what the kernel made of it; a mount that is not as it was meant goes, with all that is beside it."""
        running = live.record.processes
        if running is not None:
            try:
                overlays.check_overlays(running.warden)
            except BaseException:
                await processes.stop(running, live.record.groups)
                raise

    def _open(self, mount: FilesystemMount, spec: SandboxSpec, *, again: bool = False) -> Source:
        allowed = again or self._config.allow_root_owned
        return attachments.open_source(mount, self._store_root, allow_root_owned=allowed, set_id=spec.set_id)

    def _open_own(self, attached: Attached) -> Source:
        fd = os.open(attached.source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(fd)
        return Source(fd, attached.source, found.st_dev, found.st_ino, found.st_uid, found.st_gid, is_file=False)

    async def _request(self, live: "LiveSession", attached: Attached, source: Source) -> control.Reply:
        flags = Tree.NOSUID | Tree.NODEV
        if attached.access is FilesystemAccess.READ_ONLY:
            flags |= Tree.RDONLY
        if source.is_file:
            flags |= Tree.FILE
        if attached.layer:
            flags |= Tree.COW | Tree.NOT_RECURSIVE
        holder = os.open(f"{live.directory}/{attached.layer}", _DIRECTORY) if attached.layer else None
        try:
            if self._host.root:
                return await self._by_porter(live, attached, source, flags, holder)
            ids = {"v0": source.device, "v1": source.inode}
            request = operation(Kind.ATTACH, source.path, attached.target, flags=flags, **ids)
            return await control.ask(live.directory, request + _changes(live, attached, holder))
        finally:
            if holder is not None:
                os.close(holder)

    async def _by_porter(
        self, live: "LiveSession", attached: Attached, source: Source, flags: int, holder: int | None
    ) -> control.Reply:
        """With our own rights, and with the owner on disk as the session's root inside."""
        base = live.base_id or 0
        if not attached.own:
            flags |= Tree.IDMAP_OWNER
        elif live.record.idmap:
            flags |= Tree.IDMAP
        ids = {"n0": source.uid, "n1": source.gid, "v0": base, "v1": base}
        request = operation(Kind.ATTACH, "", attached.target, flags=flags, **ids)
        running = live.record.processes
        if running is None:
            raise ConnectionError("the session has no processes")
        porter = Launcher(self._native, "porter", live.key)
        try:
            userns = os.open(f"/proc/{running.warden}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                with connect(live.directory, CONTROL_SOCKET) as connection:
                    connection.setblocking(True)
                    porter.plan(request + _changes(live, attached, holder))
                    sources = (source.fd,) if holder is None else (source.fd, holder)
                    porter.send(connection.fileno(), userns, *sources)
            finally:
                os.close(userns)
            return control.parse_reply(await porter.answer(control.REPLY.size, control.ANSWER_WITHIN_S))
        finally:
            porter.abandon()  # it has answered, or has had its time


def _check_same(attached: Attached, source: Source) -> None:
    """A guest that can write above a source can put something else in its place while its session sleeps."""
    if source.path != attached.source or attached.owner not in {None, source.uid}:  # None: a record of before
        raise SandboxIoError(
            f"mount source `{attached.source}` is not what was attached: it is {source.path} of uid {source.uid} now, "
            f"and was of uid {attached.owner}; put it back, or end the session"
        )


def _changes(live: "LiveSession", attached: Attached, holder: int | None) -> bytes:
    """What says where the changes of a copy-on-write mount go: nothing, for another."""
    if holder is None:
        return b""
    found = os.fstat(holder)
    flags = Tree.NOSUID | Tree.NODEV | Tree.NOT_RECURSIVE | (Tree.IDMAP if live.record.idmap else 0)
    place = f"{live.directory}/{attached.layer}"
    return operation(Kind.TREE, place, flags=flags, v0=found.st_dev, v1=found.st_ino)


_ADVICE = {
    "mount point": "; its parent is read-only inside: choose a target below /mnt, /workspace, or a new top-level name",
    "idmapped mount": "; this file system cannot show other owners: attach a directory on ext4, xfs, btrfs or tmpfs",
    "overlay": "; the store or the directory lies on a file system that cannot be a layer: `alcove doctor`",
}


def _as_mount(attached: Attached) -> FilesystemMount:
    return FilesystemMount(attached.source, attached.target, attached.access, copy_on_write=bool(attached.layer))
