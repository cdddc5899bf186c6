"""Directories as overlays: read-only ones that veil the host's own objects, and a session's own by copy-on-write.

An overlay's layers are staged over places of the host's root, which goes away with pivot_root; the overlay keeps hold
of them.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from alcove.contract import LifecycleError
from alcove.local.cell import parts
from alcove.local.cell.layout import Layout, SessionPlaces
from alcove.local.cell.operations import Kind, Tree, operation
from alcove.local.cell.parts import Part

#: Directories that every host has, for what is staged besides the host's directories themselves.
STAGE = "/proc"
_LAYERS_STAGE = "/dev"
#: In the new root, where /tmp will cover it: files of /etc that come from no directory of the host's.
OWN_ETC = "tmp/etc"

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
    for name in os.listdir(etc):
        with open(f"{etc}/{name}", "rb") as file:
            yield operation(Kind.FILE, f"{OWN_ETC}/{name}", file.read(), n0=0o644)
    flags = _READ_ONLY | layout.tree_flags | Tree.NOT_RECURSIVE | Tree.STAGE
    yield operation(Kind.TREE, "/", STAGE, flags=flags)
    yield operation(Kind.OVERLAY, STAGE, f"{os.path.dirname(OWN_ETC)}:{STAGE}", flags=_READ_ONLY | Tree.STAGE)
    for name in layout.together:
        yield operation(Kind.TREE, f"{STAGE}/{name}", name, flags=_READ_ONLY | Tree.NOT_RECURSIVE)


def staged(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    """The session's directory and the sealed layers, where overlays of the session's own are to be made of them."""
    if not (layout.owned or places.below):
        return
    flags = layout.tree_flags | Tree.NOSUID | Tree.NODEV | Tree.NOT_RECURSIVE | Tree.STAGE
    flags |= Tree.IDMAP if places.idmap else 0
    yield operation(Kind.TREE, places.directory, STAGE, flags=flags)
    if places.below:
        yield operation(Kind.TREE, places.layers, _LAYERS_STAGE, flags=flags | Tree.RDONLY)


def writable(part: Part, places: SessionPlaces, *host: str) -> Iterator[bytes]:
    """A part of the session's own over the sealed layers beneath it, and over a staged directory of the `host`'s."""
    lower = [f"{_LAYERS_STAGE}/{key}/{part.name}" for key in places.below.get(part.name, ())]
    yield operation(Kind.OVERLAY, part.target.lstrip("/"), ":".join((*lower, *host)), flags=Tree.NOSUID | Tree.NODEV)
    yield operation(Kind.OVERLAY_UPPER, f"{STAGE}/{part.upper}", f"{STAGE}/{part.work}")


def owned(layout: Layout, places: SessionPlaces) -> Iterator[bytes]:
    """One overlay per top-level directory, over an idmapped view of the host's.

    The clone has no mounts beneath it: with them it could not be a lower layer (they are locked together in a user
    namespace), and they are the host's business (a container's /etc/hostname).
    """
    flags = Tree.HOST | Tree.IDMAP | Tree.NOSUID | Tree.NODEV | Tree.STAGE | Tree.RDONLY | Tree.NOT_RECURSIVE
    for part in parts.owned() if layout.owned else ():
        yield operation(Kind.TREE, part.target, part.target, flags=flags)
        if part.name in places.below and f"{os.path.realpath(places.layers)}/".startswith(f"{part.target}/"):
            # no layer may lie within another (ELOOP): by way of an overlay of its own the host's is another file system
            lower = f"{part.target}:{part.target.lstrip('/')}"
            yield operation(Kind.OVERLAY, part.target, lower, flags=_READ_ONLY | Tree.STAGE)
        yield from writable(part, places, part.target)


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
