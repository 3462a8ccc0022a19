"""The table, JSON file and figure of an ablation: the gain and cost of each step.

Every row has the improvements of all rows above it; the first one is the baseline. Numbers come
with their bootstrap intervals, gains with those of the paired difference to the baseline. Names are
data: they are never read as markup or mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from ..files import atomic_write
from ..printing import cell
from .bootstrap import CONFIDENCE, DEFINITIONS, Estimate, Interval
from .report import write_json
from .tables import plain_table, without_nan

_HEADINGS = {"voc_ap50": "mAP@0.5", "voc_ap75": "mAP@0.75", "voc_ap": "mAP@.5:.95"}


@dataclass(frozen=True)
class Row:
    """One step, with the ``testing`` and ``weights`` of its detections.

    A step that was left out has its reason in ``skipped``, and no numbers.
    """

    name: str
    testing: str = ""
    weights: tuple[str, ...] = ()
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    seconds_per_image: float | None = None
    skipped: str = ""


@dataclass(frozen=True)
class Summary:
    """A row's numbers and its gains over the baseline; ``cost`` is in the baseline's seconds."""

    numbers: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    cost: float | None


def summarise(row: Row, baseline: Row) -> Summary:
    """The intervals of a row that was measured on the same draws as ``baseline``."""
    seconds, least = row.seconds_per_image, baseline.seconds_per_image
    return Summary(
        numbers={name: own.interval(CONFIDENCE) for name, own in row.estimates.items()},
        gains={
            name: own.minus(baseline.estimates[name]).interval(CONFIDENCE)
            for name, own in row.estimates.items()
        },
        cost=seconds / least if seconds and least else None,
    )


def ablation_table(rows: Sequence[Row], *, images: int, resamples: int) -> Table:
    """A line of numbers and one of gains for each row, in percent, with their intervals."""
    table = plain_table(padding=(0, 1, 0, 0))
    table.title = f"{images} images; percent, below it the gain over the baseline"
    skipped = [f"{row.name}: {row.skipped}" for row in rows if row.skipped]
    intervals = f"in brackets: {CONFIDENCE:.0%} bootstrap intervals, {resamples} resamples"
    table.caption = Text("\n".join([intervals, *skipped]))
    table.add_column("", overflow="fold")
    for heading in (*_HEADINGS.values(), "s/image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, summary in _summaries(rows):
        if summary is None:
            table.add_row(cell(row.name), *["-"] * len(_HEADINGS), "-")
            continue
        numbers = [_percent(summary.numbers[name]) for name in _HEADINGS]
        table.add_row(cell(row.name), *numbers, _seconds(row.seconds_per_image))
        if row is not rows[0]:
            gains = [_percent(summary.gains[name], sign="+") for name in _HEADINGS]
            table.add_row("", *gains, "-" if summary.cost is None else f"x{summary.cost:.2f}")
    return table


def write_ablation(rows: Sequence[Row], folder: Path, *, about: Mapping[str, Any]) -> list[Path]:
    """Write ``ablation.json`` and ``ablation.png``; returns what was written.

    ``about`` is what all rows share: the data, the number of images and resamples.
    """
    written = [folder / "ablation.json", folder / "ablation.png"]
    content = dict(about) | {
        "confidence": CONFIDENCE,
        "definitions": dict(DEFINITIONS),
        "rows": [_json(row, summary) for row, summary in _summaries(rows)],
    }
    write_json(content, written[0])
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):
        figure = ablation_figure(rows)
        with atomic_write(written[1]) as part:
            figure.savefig(part, format="png")
    return written


def ablation_figure(rows: Sequence[Row]) -> Figure:
    """Numbers above, gains over the baseline below: points with their intervals."""
    shown = [(row.name, summary) for row, summary in _summaries(rows) if summary is not None]
    figure = Figure(figsize=(12, 2.4 + 0.55 * len(shown)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(_HEADINGS), sharey=True, squeeze=False)
    for column, (name, heading) in enumerate(_HEADINGS.items()):
        numbers, gains = grid[0][column], grid[1][column]
        numbers.set_title(heading)
        _points(numbers, [summary.numbers[name] for _, summary in shown])
        _points(gains, [summary.gains[name] for _, summary in shown])
        gains.axvline(0, color="0.6", linewidth=1, zorder=0)
        numbers.set_xlabel("percent")
        gains.set_xlabel("gain over the baseline, points")
    grid[0][0].set_yticks(range(len(shown)), labels=[name for name, _ in shown])
    grid[0][0].invert_yaxis()
    return figure


def _summaries(rows: Sequence[Row]) -> list[tuple[Row, Summary | None]]:
    return [(row, None if row.skipped else summarise(row, rows[0])) for row in rows]


def _points(axes: Axes, intervals: Sequence[Interval]) -> None:
    for place, interval in enumerate(intervals):
        value, low, high = (100 * part for part in (interval.value, interval.low, interval.high))
        axes.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
        axes.plot([value], [place], "o", color="tab:blue", markersize=5)
    axes.grid(alpha=0.3)


def _percent(interval: Interval, sign: str = "") -> str:
    if math.isnan(interval.value):
        return "-"
    value, low, high = (
        f"{100 * part:{sign}.1f}" for part in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"


def _json(row: Row, summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"name": row.name, "skipped": row.skipped}
    return {
        "name": row.name,
        "testing": row.testing,
        "weights": list(row.weights),
        "metrics": {
            name: without_nan(asdict(interval)) for name, interval in summary.numbers.items()
        },
        "gain": {name: without_nan(asdict(interval)) for name, interval in summary.gains.items()},
        "seconds_per_image": row.seconds_per_image,
        "cost": summary.cost,
    }
