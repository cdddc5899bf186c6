"""`alcove tree`: sessions and snapshots, each below what it was made from."""

import os
from collections.abc import Iterator

from alcove.cli.failures import colours, warn
from alcove.cli.grammar import Given
from alcove.cli.local import recovered, with_backend
from alcove.cli.tables import style
from alcove.cli.values import shown_size
from alcove.local import LineageNode
from alcove.local.exec.terminal import TerminalSandbox

_INDENT = "  "


class Branch:
    """One node and what was made from it."""

    def __init__(self, node: LineageNode) -> None:
        self.node = node
        self.below: list[Branch] = []


def tree(given: Given) -> int:
    """Draw where sessions and snapshots come from."""

    async def work(backend: TerminalSandbox) -> int:
        nodes = (await recovered(backend)).lineage()
        if given["json"]:
            from msgspec.json import encode

            print(encode(nodes).decode())
        elif not nodes:
            warn("there is no session and no snapshot yet; make one: alcove create")
        elif os.isatty(1):
            _draw(branches(nodes))
        else:
            _indent(branches(nodes))
        return 0

    return with_backend(given, work)


def branches(nodes: list[LineageNode]) -> list[Branch]:
    """Return the roots, the oldest first, with all that grew on each."""
    known: dict[tuple[str, str], Branch] = {(node.kind, node.id): Branch(node) for node in nodes}
    roots = []
    for branch in known.values():
        node = branch.node
        parent = known.get((node.parent_kind, node.parent)) if node.parent_kind and node.parent else None
        if parent is None or _is_below(parent, node, known):
            roots.append(branch)
        else:
            parent.below.append(branch)
    return roots


def _is_below(parent: Branch, node: LineageNode, known: dict[tuple[str, str], Branch]) -> bool:
    """An id that was given again, a day after its session's end, can make a session an ancestor of its own."""
    seen: set[tuple[str, str]] = set()
    place: Branch | None = parent
    while place is not None and (place.node.kind, place.node.id) not in seen:
        if place.node is node:
            return True
        seen.add((place.node.kind, place.node.id))
        above = place.node
        place = known.get((above.parent_kind, above.parent)) if above.parent_kind and above.parent else None
    return False


def _indent(roots: list[Branch]) -> None:
    for depth, branch in _each(roots, 0):
        print(f"{_INDENT * depth}{'  '.join(_words(branch.node))}")


def _each(found: list[Branch], depth: int) -> Iterator[tuple[int, Branch]]:
    waiting = [(depth, branch) for branch in reversed(found)]
    while waiting:
        depth, branch = waiting.pop()
        yield depth, branch
        waiting += [(depth + 1, below) for below in reversed(branch.below)]


def _draw(roots: list[Branch]) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    console = Console(no_color=not colours(1), highlight=False)
    drawn: list[Tree] = []  # the last one of each depth, which the next deeper one belongs to
    whole = []
    for depth, branch in _each(roots, 0):
        text = Text("  ").join(Text(word, style=style(word)) for word in _words(branch.node))
        del drawn[depth:]
        drawn.append(drawn[-1].add(text) if drawn else Tree(text))
        if depth == 0:
            whole.append(drawn[0])
    for one in whole:
        console.print(one)


def _words(node: LineageNode) -> list[str]:
    words = [node.kind, node.id]
    if node.name:
        words.append(f"({node.name})")
    if node.state:
        words.append(node.state)
    if node.bytes is not None:
        words.append(shown_size(node.bytes))
    if node.parent_gone:
        words.append(f"[from {node.parent_kind} {node.parent}, which is gone]")
    return words
