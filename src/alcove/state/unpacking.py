"""An archive's members become a layer: beneath its directory by descriptor, each name once, nothing of ill repute."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from alcove.contract import InvalidRequest
from alcove.state import names
from alcove.state.archive import Archive
from alcove.state.beneath import Names, Place
from alcove.state.limits import refused
from alcove.state.members import Kind, Member
from alcove.state.walk import shown, white_out

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ALLOWED_XATTRS: Final = b"user."
_OVERLAY_XATTRS: Final = b"user.overlay."
_OPAQUE_XATTR: Final = "user.overlay.opaque"
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_IMPLIED_MODE: Final = 0o755
_REFUSALS: Final = {
    errno.EEXIST: "comes twice, or is in the way of another",
    errno.ENOTDIR: "lies beneath something that is no directory",
    errno.ELOOP: "lies beneath a symbolic link",
    errno.EISDIR: "comes twice, or is in the way of another",
    errno.EMLINK: "has more hard links than can be",
    errno.E2BIG: "has more extended attributes than can be",
    errno.ERANGE: "has an extended attribute that cannot be",
    errno.EINVAL: "has a name, an owner or an attribute that cannot be here",
    errno.ENAMETOOLONG: "has a name that is too long",
}


class Policy(Struct, frozen=True, kw_only=True):
    """What a layer may have.

    `children` are the names that may stand at the top, each a directory, since a session's mounts are made of them;
    None: any, as in an image's root file system. `over` are those of them that hold the tops of overlays over
    something else: there the lowest layer's whiteouts mean something, elsewhere it has nothing to hide, and they are
    passed over. `whole` are those that each layer has whole, so that it hides nothing in them but all. `set_id`: set-id
    bits are allowed. `owners` is how many ids there are, from 0 on; None: any. `squash_owners`: where owners cannot be
    given, everything becomes the caller's, instead of a refusal.
    """

    children: tuple[bytes, ...] | None = (b"workspace", b"tmp", b"outputs", b"root")
    over: tuple[bytes, ...] = (b"root",)
    whole: tuple[bytes, ...] = (b"outputs",)
    set_id: bool = False
    owners: int | None = None
    squash_owners: bool = False

    def is_place(self, path: Names) -> bool:
        """Whether mounts are made of what has this path, so that it must be a directory."""
        return self.children is not None and len(path) <= (2 if path[0] in self.over else 1)


def unpack(archive: Archive, root: int, policy: Policy, *, lowest: bool) -> bool:
    """Unpack an archive into the empty directory `root`; tell whether owners were lost on the way.

    Nothing has any effect outside `root`. What was written is left there on failure, for the caller to remove.

    Raises:
        InvalidRequest: a member is not one that a layer may have.
        OSError: the host's file system failed.
    """
    with Place(root) as place:
        unpacking = _Unpacking(archive, root, place, policy, lowest=lowest)
        for path, member in archive.members():
            with _refusing(member.path):
                unpacking.add(path, member)
    return unpacking.squashed


class _Unpacking:
    def __init__(self, archive: Archive, root: int, place: Place, policy: Policy, *, lowest: bool) -> None:
        self._archive = archive
        self._root = root
        self._place = place
        self._policy = policy
        self._lowest = lowest
        self._privileged = os.geteuid() == 0
        # Directories that no member has spoken of yet, but a member beneath
        self._implied: set[tuple[int, int]] = set()
        self.squashed = False
        self._makers: dict[Kind, Callable[[bytes, Member], None]] = {
            Kind.FILE: self._file,
            Kind.HARD_LINK: self._hard_link,
            Kind.SYMLINK: self._symlink,
            Kind.FIFO: self._fifo,
        }

    def add(self, path: Names, member: Member) -> None:
        if not path:
            if member.kind is not Kind.DIRECTORY:
                raise refused("it has a member in the place of its root")
            return  # the layer's own directory is the caller's
        self._check_place(path, member)
        self._check(member)
        if path[-1].startswith(names.WHITEOUT):
            self._whiteout(path, member)
        elif member.kind is Kind.DIRECTORY:
            self._directory(path, member)
        else:
            self._go(path[:-1])
            self._makers[member.kind](path[-1], member)

    def _check_place(self, path: Names, member: Member) -> None:
        if any(name.startswith(names.WHITEOUT) for name in path[:-1]):
            raise refused(f"{shown(member.path)} lies beneath a whiteout")
        children = self._policy.children
        if children is not None and path[0] not in children:
            raise refused(f"{shown(member.path)} has no place in a layer")
        if self._policy.is_place(path) and member.kind is not Kind.DIRECTORY:
            raise refused(f"{shown(member.path)} is to be a directory, and is none")

    def _check(self, member: Member) -> None:
        if member.mode & _SET_ID and not self._policy.set_id and member.kind is not Kind.SYMLINK:
            raise refused(f"{shown(member.path)} has a set-id bit; allow them for the import where they are wanted")
        if member.xattrs and member.kind not in {Kind.FILE, Kind.DIRECTORY}:
            raise refused(f"{shown(member.path)} has extended attributes and is neither file nor directory")
        for name in member.xattrs:
            if not name.startswith(_ALLOWED_XATTRS) or name.startswith(_OVERLAY_XATTRS) or b"\0" in name:
                raise refused(f"{shown(member.path)} has the extended attribute {shown(name)}")
        owners = self._policy.owners
        if owners is not None and max(member.uid, member.gid) >= owners:
            raise refused(f"{shown(member.path)} belongs to {member.uid}:{member.gid}, and a session has {owners} ids")
        if not self._privileged and (member.uid or member.gid):
            if not self._policy.squash_owners:
                owner = f"{member.uid}:{member.gid}"
                raise refused(f"{shown(member.path)} belongs to {owner}; import it as root, or give up the owners")
            self.squashed = True

    def _go(self, path: Names) -> None:
        """Go to a directory, and make what is missing on the way."""
        for name in path[self._place.go(path) :]:
            self._archive.count_entry()
            os.mkdir(name, 0o700, dir_fd=self._place.fd)
            level = self._place.enter(name)
            level.mode, level.mtime_ns = _IMPLIED_MODE, 0
            self._implied.add(level.identity)

    def _directory(self, path: Names, member: Member) -> None:
        self._go(path[:-1])
        try:
            os.mkdir(path[-1], 0o700, dir_fd=self._place.fd)
        except FileExistsError:
            level = self._place.enter(path[-1])
            if level.identity not in self._implied:
                raise
            self._implied.remove(level.identity)
        else:
            level = self._place.enter(path[-1])
        self._own(self._place.fd, member)
        for name, value in member.xattrs.items():
            os.setxattr(self._place.fd, name, value)
        level.mode, level.mtime_ns = member.mode, member.mtime_ns

    def _file(self, name: bytes, member: Member) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self._place.fd)
        try:
            for offset, data in self._archive.content():
                _write_all(fd, data, offset)
            if member.segments is not None:
                os.ftruncate(fd, member.size)
            self._own(fd, member)
            for key, value in member.xattrs.items():
                os.setxattr(fd, key, value)
            os.fchmod(fd, member.mode)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _hard_link(self, name: bytes, member: Member) -> None:
        target = self._archive.split(member.target, Kind.FILE)
        with Place(self._root) as there:
            if not target or there.go(target[:-1]) < len(target) - 1:
                raise refused(f"{shown(member.path)} is a hard link to what is not in this layer")
            try:
                found = os.stat(target[-1], dir_fd=there.fd, follow_symlinks=False)
            except FileNotFoundError:
                raise refused(f"{shown(member.path)} is a hard link to what is not in this layer") from None
            if not stat.S_ISREG(found.st_mode):
                raise refused(f"{shown(member.path)} is a hard link to something that is no file")
            os.link(target[-1], name, src_dir_fd=there.fd, dst_dir_fd=self._place.fd, follow_symlinks=False)

    def _symlink(self, name: bytes, member: Member) -> None:
        names.check_symlink(member.target, member.path)
        os.symlink(member.target, name, dir_fd=self._place.fd)
        self._finish_node(name, member)

    def _fifo(self, name: bytes, member: Member) -> None:
        os.mkfifo(name, 0o600, dir_fd=self._place.fd)
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._place.fd)
        try:
            os.chmod(f"/proc/self/fd/{handle}", member.mode)
        finally:
            os.close(handle)
        self._finish_node(name, member)

    def _finish_node(self, name: bytes, member: Member) -> None:
        times = (member.mtime_ns, member.mtime_ns)
        if self._privileged:
            os.chown(name, member.uid, member.gid, dir_fd=self._place.fd, follow_symlinks=False)
        os.utime(name, ns=times, dir_fd=self._place.fd, follow_symlinks=False)

    def _own(self, fd: int, member: Member) -> None:
        if self._privileged:  # always: a set-group-id directory would have given its own group
            os.fchown(fd, member.uid, member.gid)

    def _whiteout(self, path: Names, member: Member) -> None:
        if member.kind is not Kind.FILE or member.size or member.xattrs:
            raise refused(f"{shown(member.path)} is a whiteout and no empty file")
        removed = None if path[-1] == names.OPAQUE else names.removed_name(path[-1], member.path)
        whole = path[0] in self._policy.whole
        if whole and path != (path[0], names.OPAQUE):
            raise refused(f"{shown(member.path)} hides something in what each layer has whole")
        if self._lowest and not whole and path[0] not in self._policy.over:
            return
        self._go(path[:-1])
        if removed is None:
            if self._place.is_root:
                raise refused(f"{shown(member.path)} hides all that other layers have")
            os.setxattr(self._place.fd, _OPAQUE_XATTR, b"y", os.XATTR_CREATE)
        else:
            white_out(removed, self._place.fd)


@contextmanager
def _refusing(path: bytes) -> Iterator[None]:
    """Tell what the archive is to blame for from what the host is."""
    try:
        yield
    except InvalidRequest:
        raise
    except OSError as error:
        fact = _REFUSALS.get(error.errno or 0)
        if fact is None:
            raise
        raise refused(f"{shown(path)} {fact}") from None


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
