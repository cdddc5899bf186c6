"""A document as one picture: for each case a bar per contender, on a logarithmic scale."""

import importlib
from pathlib import Path
from typing import Any

from bench.document import CaseRow, Document, MetricRow
from bench.stats import percentile

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
    panels = [(case, metric) for case in document.cases for metric in case.metrics if _rows(case, metric)]
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
    places = range(len(rows))
    medians = [row[1] for row in rows]
    spread = [[row[1] - row[2] for row in rows], [row[3] - row[1] for row in rows]]
    colours = [_colour(case, row[0]) for row in rows]
    axis.barh(places, medians, xerr=spread, color=colours, error_kw={"lw": 0.8, "ecolor": "#333333"})
    axis.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.tick_params(axis="x", labelsize=7)
    for place, (_, middle, _, high) in zip(places, rows, strict=True):
        axis.annotate(f" {middle:.3g}", (max(middle, high), place), va="center", fontsize=7)
    axis.margins(x=0.15)
    better = "less is better" if metric.better == "lower" else "more is better"
    axis.set_title(f"{case.title}: {metric.name} [{metric.unit}], {better}", fontsize=9, loc="left")


def _colour(case: CaseRow, contender: str) -> str:
    if contender.startswith("alcove"):
        return _ALCOVE
    return _BASELINE if contender == case.baseline else _OTHER
