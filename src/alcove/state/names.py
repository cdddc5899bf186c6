"""Names in an archive: what a member may be called, and the names by which an image layer says that something is gone.

Source of the latter: OCI Image Format Specification, layer.md, "Whiteouts".
"""

from typing import Final

from alcove.state.limits import ImportLimits, refused
from alcove.state.members import Kind
from alcove.state.walk import shown

#: Before the name of what a layer removes.
WHITEOUT: Final = b".wh."
#: In a directory that hides all that lower layers have in it.
OPAQUE: Final = b".wh..wh..opq"

_LONGEST_NAME = 255
_LONGEST_TARGET = 4095


def components(path: bytes, kind: Kind, limits: ImportLimits) -> tuple[bytes, ...]:
    """Split a member's path into names, of which none can lead anywhere but down; the archive's root has none.

    Raises:
        InvalidRequest: it is absolute, climbs, is too long or too deep, or is not plainly written.
    """
    if len(path) > limits.path_bytes:
        raise refused(f"a path is longer than {limits.path_bytes} bytes: {shown(path)}")
    if not path or b"\0" in path or path.startswith(b"/"):
        raise refused(f"a path is empty, absolute or has a NUL: {shown(path)}")
    parts = path.split(b"/")
    if parts[0] == b".":
        del parts[0]
    if parts and parts[-1] == b"" and kind is Kind.DIRECTORY:
        del parts[-1]
    if len(parts) > limits.depth:
        raise refused(f"a path is deeper than {limits.depth} directories: {shown(path)}")
    for part in parts:
        if part in {b"", b".", b".."} or len(part) > _LONGEST_NAME:
            raise refused(f"a path has a component that is empty, `.`, `..` or too long: {shown(path)}")
    return tuple(parts)


def check_symlink(target: bytes, path: bytes) -> None:
    """Refuse the target of a symbolic link that none can have; where it leads is no matter, since nobody follows it.

    Raises:
        InvalidRequest: it is empty, has a NUL or is too long.
    """
    if not target or b"\0" in target or len(target) > _LONGEST_TARGET:
        raise refused(f"{shown(path)} is a symbolic link to a name that cannot be")


def removed_name(name: bytes, path: bytes) -> bytes:
    """Return the name that the whiteout called `name` removes.

    Raises:
        InvalidRequest: there can be none of that name.
    """
    removed = name.removeprefix(WHITEOUT)
    if removed in {b"", b".", b".."} or removed.startswith(WHITEOUT):
        raise refused(f"{shown(path)} is a whiteout of a name that cannot be")
    return removed
