"""A chain of layers made into one, part by part: what takes its place shows the same."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

from alcove.local.cell.parts import OUTPUTS, is_over_host
from alcove.local.snapshots.layers import open_part
from alcove.state.contents import Progress
from alcove.state.copying import copy_tree, flatten


def flatten_layers(
    layers: Sequence[int],
    target: int,
    names: Iterable[str],
    *,
    reflink: bool = True,
    progress: Progress | None = None,
) -> None:
    """Make one layer of a chain that has nothing below it, the lowest first, in an empty directory.

    `names` are the parts that any of the layers has (`Layer.parts`). Below a part of the root file system lies the
    host's directory: what the chain deletes there is deleted by the new layer too. The outputs are those of the
    topmost layer that has any, as each has them whole.

    Raises:
        OSError: something cannot be read or written, for instance for want of space.
        LifecycleError: there is a device node, or a layer changed meanwhile.
    """
    for name in names:
        with ExitStack() as opened:
            chain = _opened(layers, name, opened)
            if not chain:
                continue
            part = open_part(target, name, make=True)
            opened.callback(os.close, part)
            if name == OUTPUTS.name:
                copy_tree(chain[-1], part, reflink=reflink, progress=progress)
            else:
                flatten(chain, part, over=is_over_host(name), reflink=reflink, progress=progress)


def _opened(layers: Sequence[int], name: str, opened: ExitStack) -> list[int]:
    chain: list[int] = []
    for layer in layers:
        with suppress(FileNotFoundError):
            chain.append(open_part(layer, name))
            opened.callback(os.close, chain[-1])
    return chain
