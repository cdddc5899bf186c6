"""A document as tables on the terminal: with rich where it is installed, as aligned text where it is not."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.document import CaseRow, Document, MetricRow, SeriesRow

_COLUMNS = ("contender", "median", "p95", "p99", "least", "most", "n")


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def show(document: Document) -> None:
    for table in tables(document):
        _show(table)


def tables(document: Document) -> Iterator[Table]:
    yield _host(document)
    for case in document.cases:
        for metric in case.metrics:
            table = _metric(case, metric)
            if table.rows or table.notes:
                yield table
    if document.targets:
        yield _targets(document)


def figure(value: float | None) -> str:
    """Three significant figures, never an exponent; a dash for what there is none of."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def _host(document: Document) -> Table:
    host = document.host
    who = "root" if host.uid == 0 else f"uid {host.uid}"
    title = f"{host.distribution}, Linux {host.kernel}, {host.cpus} × {host.processor}, {host.file_system}, as {who}"
    rows = tuple((peer.name, peer.version or "-", peer.state, peer.reason or peer.how) for peer in document.peers)
    notes = (f"alcove's isolation: {document.isolation}",) if document.isolation else ()
    left = tuple(f"left behind: {thing}" for thing in document.left_behind)
    return Table(title, ("runtime", "version", "state", "how, or why not"), rows, notes + left)


def _metric(case: CaseRow, metric: MetricRow) -> Table:
    series = [row for row in case.series if row.metric == metric.name]
    series.sort(key=lambda row: row.summary().median, reverse=metric.better == "higher")
    compared = case.baseline is not None and case.find(case.baseline, metric.name) is not None
    rows = tuple(_row(case, row, compared=compared) for row in series)
    columns = (*_COLUMNS, f"× {case.baseline}", "about 95 %") if compared else _COLUMNS
    unit = f" [{metric.unit}]" if metric.unit else ""
    notes = tuple(f"{failure.contender} dropped out: {failure.reason}" for failure in case.failures)
    return Table(f"{case.id}: {case.title}: {metric.name}{unit}", columns, rows, notes)


def _row(case: CaseRow, row: SeriesRow, *, compared: bool) -> tuple[str, ...]:
    found = row.summary()
    values = (found.median, found.p95, found.p99, found.least, found.most)
    cells = (row.contender, *map(figure, values), str(found.count))
    if not compared:
        return cells
    ratio = case.ratio(row.contender, row.metric)
    if ratio is None:
        return (*cells, "-", "-")
    return (*cells, figure(ratio.median), f"{figure(ratio.low)} to {figure(ratio.high)}")


def _targets(document: Document) -> Table:
    rows = tuple((row.words, figure(row.measured), row.verdict, row.reason or "") for row in document.targets)
    return Table("targets", ("target", "measured", "verdict", "why"), rows)


def _show(table: Table) -> None:
    try:
        rich_table = importlib.import_module("rich.table")
        console = importlib.import_module("rich.console").Console(
            width=None if sys.stdout.isatty() else 160, markup=False, highlight=False
        )
    except ImportError:
        print("\n".join(plain(table)))
        return
    _show_rich(table, rich_table.Table, console)


def _show_rich(table: Table, make: Any, console: Any) -> None:
    drawn = make(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        text = number == 0 or column in ("version", "state", "how, or why not", "verdict", "why")
        drawn.add_column(column, justify="left" if text else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row, style=_style(row))
    if table.rows:
        console.print(drawn)
    for note in table.notes:
        console.print(note, style="yellow")


def _style(row: Sequence[str]) -> str:
    if row[0].startswith("alcove"):
        return "bold"
    return "red" if "miss" in row or "not measured" in row else ""


def plain(table: Table) -> Iterator[str]:
    """The table as aligned lines."""
    lines = (table.columns, *table.rows)
    widths = [max(len(line[number]) for line in lines) for number in range(len(table.columns))]
    yield ""
    yield table.title
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield from table.notes
