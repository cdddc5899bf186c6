"""Mounts on a live session: by its warden, or for root by a porter that has the caller's own rights."""

import os
import secrets
from typing import TYPE_CHECKING

from msgspec.structs import replace

from alcove.contract import FilesystemAccess, FilesystemMount, SandboxIoError, SandboxSpec, Unsupported
from alcove.local import attachments, control
from alcove.local.attachments import Source
from alcove.local.config import LocalSandboxConfig
from alcove.local.host import Host
from alcove.local.launch import CONTROL_SOCKET, Launcher, connect
from alcove.local.operations import Kind, Tree, operation
from alcove.local.records import Attached

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession


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
            Unsupported: this backend has no such mount.
        """
        if mount.copy_on_write:
            raise Unsupported("local", "copy-on-write mounts; attach it read_only")
        attachments.check_target(mount.target)
        if mount.source:
            os.close(self._open(mount, spec).fd)

    async def attach(self, live: "LiveSession", mount: FilesystemMount) -> None:
        """Add a mount to a session and to its record.

        Raises:
            SandboxIoError: it could not be made; nothing of it is left.
        """
        target = attachments.check_target(mount.target)
        source = mount.source or self._fresh_directory(live)
        try:
            await self.mount(live, Attached(source=source, target=target, access=mount.access, own=not mount.source))
        except BaseException:
            if not mount.source:
                os.rmdir(source)
            raise

    def _fresh_directory(self, live: "LiveSession") -> str:
        path = f"{live.directory}/mount-{secrets.token_hex(4)}"
        os.mkdir(path)
        os.chmod(path, 0o777)  # noqa: S103 - for every user of the session; the store around it is ours alone
        if live.base_id is not None and not self._host.idmap:
            os.chown(path, live.base_id, live.base_id)
        return path

    async def mount(self, live: "LiveSession", attached: Attached, *, again: bool = False) -> None:
        """Make one mount, new or `again` after a restart: what was allowed when it was attached stays so.

        Raises:
            SandboxIoError: it could not be made.
        """
        source = self._open_own(attached) if attached.own else self._open(_as_mount(attached), live.spec, again=again)
        try:
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
        mounted = replace(attached, source=source.path)
        live.record = replace(live.record, attached=(*live.record.attached, mounted))

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
        if self._host.root:
            return await self._by_porter(live, attached, source, flags)
        request = operation(
            Kind.ATTACH,
            source.path,
            attached.target,
            flags=flags,
            v0=source.device,
            v1=source.inode,
        )
        return await control.ask(live.directory, request)

    async def _by_porter(self, live: "LiveSession", attached: Attached, source: Source, flags: int) -> control.Reply:
        """With our own rights, and with the owner on disk as the session's root inside."""
        base = live.base_id or 0
        if not attached.own:
            flags |= Tree.IDMAP_OWNER
        elif live.record.idmap:
            flags |= Tree.IDMAP
        request = operation(
            Kind.ATTACH,
            "",
            attached.target,
            flags=flags,
            n0=source.uid,
            n1=source.gid,
            v0=base,
            v1=base,
        )
        running = live.record.processes
        if running is None:
            raise ConnectionError("the session has no processes")
        porter = Launcher(self._native, "porter", live.key)
        try:
            userns = os.open(f"/proc/{running.warden}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                with connect(live.directory, CONTROL_SOCKET) as connection:
                    connection.setblocking(True)
                    porter.plan(request)
                    porter.send(connection.fileno(), source.fd, userns)
            finally:
                os.close(userns)
            return control.parse_reply(await porter.answer(control.REPLY.size, control.ANSWER_WITHIN_S))
        finally:
            porter.abandon()  # it has answered, or has had its time


_ADVICE = {
    "mount point": "; its parent is read-only inside: choose a target below /mnt, /workspace, or a new top-level name",
    "idmapped mount": "; this file system cannot show other owners: attach a directory on ext4, xfs, btrfs or tmpfs",
}


def _as_mount(attached: Attached) -> FilesystemMount:
    return FilesystemMount(attached.source, attached.target, attached.access)
