"""Rows for people: a table on a terminal, aligned columns elsewhere."""

import os
from collections.abc import Sequence

from alcove.cli.failures import colours

_STYLES = {
    "running": "green",
    "suspended": "yellow",
    "ok": "green",
    "limited": "yellow",
    "missing": "red",
    "allowed": "green",
    "denied": "red",
}


def show(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Print rows; without a header, the first column names the second."""
    if os.isatty(1):
        _show_rich(header, rows)
        return
    lines = [header, *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show_rich(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(header or ()), box=None, show_header=header is not None, pad_edge=False, header_style="bold")
    for row in rows:
        # what a label says is no markup
        table.add_row(*(Text(cell, style=_style(cell, index, header)) for index, cell in enumerate(row)))
    Console(no_color=not colours(1), highlight=False).print(table)


def _style(cell: str, index: int, header: Sequence[str] | None) -> str:
    if header is None and index == 0:
        return "dim"
    return style(cell)


def style(word: str) -> str:
    """Return the style of a word that tells how something is."""
    return _STYLES.get(word, "")
