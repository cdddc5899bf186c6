"""The parts of a session's files that are its own to change: what a snapshot of it is made of.

    in a layer    in the session's directory   inside
    workspace     workspace                    /workspace
    tmp           tmp                          /tmp and /var/tmp
    root/usr      layers/usr/upper             /usr, and so on: where the guest's root owns it
    outputs       outputs                      /mnt/session/outputs

The first are renamed into a layer, and are overlays over it from then on. The outputs are read on the host by their
path, so they stay a plain directory, and each layer has a copy of them whole.
"""

import os
from functools import cache

from msgspec import Struct

from alcove.contract import OUTPUTS_MOUNT
from alcove.local.cell.layout import TOOLCHAIN, WORKSPACE


class Part(Struct, frozen=True):
    """One of them: its path in a layer, those of its upper and work directories in a session's, and the guest's."""

    name: str
    upper: str
    work: str
    target: str


#: What every session has of its own: plain directories until there is a layer below.
OWN = (
    Part("workspace", "workspace", "workspace.work", WORKSPACE),
    Part("tmp", "tmp", "tmp.work", "/tmp"),
)
OUTPUTS = Part("outputs", "outputs", "", OUTPUTS_MOUNT)


@cache
def owned() -> tuple[Part, ...]:
    """The top-level directories that the guest's root owns by copy-on-write: always overlays, over the host's."""
    names = [name for name in TOOLCHAIN if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    return tuple(Part(f"root/{name}", f"layers/{name}/upper", f"layers/{name}/workdir", f"/{name}") for name in names)


def renamed(*, owned_root: bool) -> tuple[Part, ...]:
    """Every part of a session but its outputs."""
    return (*OWN, *owned()) if owned_root else OWN


def is_over_host(name: str) -> bool:
    """Whether a part lies over a directory of the host's, so that its lowest layer can delete something."""
    return name.startswith("root/")


def find(name: str) -> Part:
    """The part of a layer's path."""
    return next(part for part in (*OWN, OUTPUTS, *owned()) if part.name == name)
