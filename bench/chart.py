"""A document as one picture: for each case a point per contender with its spread, on a logarithmic scale."""

import importlib
from pathlib import Path
from typing import Any

from bench.document import CaseRow, Document, MetricRow
from bench.stats import percentile
from bench.table import figure

INSTALL = "no chart: matplotlib is not installed (pip install 'alcove[bench]')"

_ALCOVE, _BASELINE, _OTHER = "#1f6f8b", "#6b6b6b", "#b8c4c9"


def draw(document: Document, stem: Path) -> list[Path]:
    """Write ``stem``.svg and ``stem``.png.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    panels = [
        (case, metric) for case in document.cases for metric in case.metrics if metric.unit and _rows(case, metric)
    ]
    if not panels:
        return []
    heights = [1.0 + 0.32 * len(_rows(case, metric)) for case, metric in panels]
    picture, axes = pyplot.subplots(
        len(panels), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for (case, metric), axis in zip(panels, axes[:, 0], strict=True):
        _panel(axis, case, metric)
    host = document.host
    who = "root" if host.uid == 0 else "plain user"
    picture.suptitle(f"Alcove and others, as {who}: {host.cpus} CPUs, Linux {host.kernel}, {host.file_system}")
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    for path in paths:
        picture.savefig(path, dpi=110)
    pyplot.close(picture)
    return paths


def _rows(case: CaseRow, metric: MetricRow) -> list[tuple[str, float, float, float]]:
    """Contender, median, and the tenth and ninetieth percentile, best first; a logarithm needs them positive."""
    rows = [
        (row.contender, row.summary().median, percentile(row.samples, 0.1), percentile(row.samples, 0.9))
        for row in case.series
        if row.metric == metric.name and percentile(row.samples, 0.1) > 0
    ]
    return sorted(rows, key=lambda row: row[1], reverse=metric.better == "higher")


def _panel(axis: Any, case: CaseRow, metric: MetricRow) -> None:
    rows = _rows(case, metric)
    for place, (contender, middle, low, high) in enumerate(rows):
        # Points, not bars: a logarithmic scale has no zero for a bar to stand on.
        colour = _colour(case, contender)
        axis.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.5, solid_capstyle="round")
        axis.plot([middle], [place], marker="o", color=colour)
        axis.annotate(f"  {figure(middle)}", (max(middle, high), place), va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.grid(visible=True, axis="x", which="both", linewidth=0.3)
    for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        which(lambda value, _place: f"{value:g}")
    axis.tick_params(axis="x", which="both", labelsize=6)
    better = "less is better" if metric.better == "lower" else "more is better"
    axis.set_title(f"{case.title}: {metric.name} [{metric.unit}], {better}", fontsize=9, loc="left")


def _colour(case: CaseRow, contender: str) -> str:
    if contender.startswith("alcove"):
        return _ALCOVE
    return _BASELINE if contender == case.baseline else _OTHER
