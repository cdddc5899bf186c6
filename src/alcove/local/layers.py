"""Top-level directories as overlays: read-only ones that veil the host's own objects, and owned ones by copy-on-write.

An overlay's layers are staged over places of the host's root, which goes away with pivot_root; the overlay keeps hold
of them.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from alcove.contract import LifecycleError
from alcove.local.layout import TOOLCHAIN, Layout, SessionPlaces
from alcove.local.operations import Kind, Tree, operation

#: A directory that every host has, for what is staged besides the host's directories themselves.
STAGE = "/proc"
_COVERED = "tmp"

_READ_ONLY = Tree.RDONLY | Tree.NOSUID | Tree.NODEV
# What an owned root could read as its own, and is not to: keys, and the sessions' store (in `Layout.hidden`)
_OWNED_HIDDEN = ("etc/ssl/private", "etc/krb5.keytab", "etc/wireguard", "var/lib/private")
_UNSAFE_OPTIONS = frozenset({"metacopy=on", "redirect_dir=on", "redirect_dir=follow"})


def veiled(layout: Layout, name: str, above: tuple[str, ...] = ()) -> Iterator[bytes]:
    """A read-only overlay: its sockets, FIFOs and locks are other objects than the host's, which a bind's are not.

    `above` are layers that are staged already and whose files come before the host's.
    """
    flags = _READ_ONLY | layout.tree_flags | Tree.NOT_RECURSIVE | Tree.STAGE
    yield operation(Kind.TREE, f"/{name}", f"/{name}", flags=flags)
    # one lower layer alone is no overlay: where there is no other, an empty directory of the new root is the second
    lower = ":".join((*above, f"/{name}", *(() if above else (name,))))
    yield operation(Kind.OVERLAY, name, lower, flags=_READ_ONLY)


def veiled_together(layout: Layout, etc: str) -> Iterator[bytes]:
    """The same for several at once, from one overlay: a layer with the files of `etc`, and the host's root directory.

    For each overlay the kernel makes and takes down a file system, which costs more than everything else about it.
    The clone of the host's root has no mounts beneath it, so this is for root, and for what is no mount itself. Our
    layer lies in the new root, where /tmp will cover it: in the store it would be part of the other layer (ELOOP).
    """
    yield operation(Kind.DIRECTORY, f"{_COVERED}/etc", n0=0o755)
    for name in os.listdir(etc):
        with open(f"{etc}/{name}", "rb") as file:
            yield operation(Kind.FILE, f"{_COVERED}/etc/{name}", file.read(), n0=0o644)
    flags = _READ_ONLY | layout.tree_flags | Tree.NOT_RECURSIVE | Tree.STAGE
    yield operation(Kind.TREE, "/", STAGE, flags=flags)
    yield operation(Kind.OVERLAY, STAGE, f"{_COVERED}:{STAGE}", flags=_READ_ONLY | Tree.STAGE)
    for name in layout.together:
        yield operation(Kind.TREE, f"{STAGE}/{name}", name, flags=_READ_ONLY | Tree.NOT_RECURSIVE)


def owned_places() -> list[str]:
    """The top-level directories that the guest's root owns by copy-on-write."""
    return [name for name in TOOLCHAIN if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]


def upper_directories(layout: Layout) -> list[str]:
    """What a session's directory has besides, for the upper layers of an owned root; parents first."""
    if not layout.owned:
        return []
    names = ["layers"]
    for name in owned_places():
        names += [f"layers/{name}", f"layers/{name}/upper", f"layers/{name}/workdir"]
    return names


def owned(places: SessionPlaces) -> Iterator[bytes]:
    """One overlay per top-level directory, over an idmapped view of the host's.

    The clone has no mounts beneath it: with them it could not be a lower layer (they are locked together in a user
    namespace), and they are the host's business (a container's /etc/hostname).
    """
    flags = Tree.HOST | Tree.IDMAP | Tree.NOSUID | Tree.NODEV | Tree.STAGE
    yield operation(Kind.TREE, f"{places.directory}/layers", STAGE, flags=flags)
    for name in owned_places():
        lower = flags | Tree.RDONLY | Tree.NOT_RECURSIVE
        yield operation(Kind.TREE, f"/{name}", f"/{name}", flags=lower)
        yield operation(Kind.OVERLAY, name, f"/{name}", flags=Tree.NOSUID | Tree.NODEV)
        yield operation(Kind.OVERLAY_UPPER, f"{STAGE}/{name}/upper", f"{STAGE}/{name}/workdir")


def check_overlays(warden: int) -> None:
    """Read back what the kernel put in force: some versions drop overlay options in silence.

    Raises:
        LifecycleError: an overlay would follow crafted metadata of a layer.
    """
    with open(f"/proc/{warden}/mountinfo") as file:
        overlays = [line for line in file if " - overlay " in line and "upperdir=" in line]
    for line in overlays:
        options = line.rsplit(" ", 1)[1].strip().split(",")
        if "userxattr" not in options or _UNSAFE_OPTIONS.intersection(options):
            raise LifecycleError(f"this kernel's overlay has options that are not safe here: {','.join(options[-6:])}")


def owned_secrets() -> list[str]:
    """Paths to hide from the root of an owned root file system."""
    with suppress(FileNotFoundError):
        return [*_OWNED_HIDDEN, *(f"etc/ssh/{name}" for name in os.listdir("/etc/ssh") if name.endswith("_key"))]
    return list(_OWNED_HIDDEN)
