"""Each row's numbers, gains and cost in the table, the file and the figure of an ablation."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.detection.evaluation.ablation import (
    Row,
    ablation_figure,
    ablation_table,
    summarise,
    write_ablation,
)
from resdet.detection.evaluation.bootstrap import METRICS, Draws, Estimate
from rich.console import Console

DRAWS = Draws(("a", "b"), np.ones((2, 101), dtype=np.int64))


def row(name: str, value: float, seconds: float, spread: float = 0.1) -> Row:
    """Samples evenly within ``spread`` of ``value``; the other metrics are a half and a third."""
    offsets = np.linspace(-spread, spread, 101)
    estimates = {
        metric: Estimate(value / part, value / part + offsets, DRAWS)
        for part, metric in enumerate(METRICS, start=1)
    }
    return Row(name, "nms at 0.5", ("best.pt",), estimates, seconds)


ROWS = [
    row("baseline", 0.5, 0.2),
    row("[b]$r_{2", 0.52, 0.3, spread=0.12),
    Row("context", skipped="not trained: give --context-weights"),
]


def printed(rows: list[Row]) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(ablation_table(rows, images=2, resamples=101))
    return console.export_text()


def test_the_summary_of_a_row_has_its_gain_and_cost() -> None:
    summary = summarise(ROWS[1], ROWS[0])
    number, gain = summary.numbers["voc_ap50"], summary.gains["voc_ap50"]
    assert (number.value, number.low, number.high) == pytest.approx((0.52, 0.406, 0.634))
    # The paired samples are 0.02 apart, with a fifth of the spread.
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.02, 0.001, 0.039))
    assert summary.cost == pytest.approx(1.5)


def test_the_table_fits_a_terminal() -> None:
    lines = printed(ROWS).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "50.0 [40.5, 59.5]" in text and "52.0 [40.6, 63.4]" in text
    assert "+2.0 [+0.1, +3.9]" in text and "x1.50" in text
    assert "[b]$r_{2" in text
    assert "context: not trained: give --context-weights" in text


def test_the_file_holds_the_unrounded_numbers(tmp_path: Path) -> None:
    written = write_ablation(ROWS, tmp_path, about={"split": "val", "images": 2})
    assert [path.name for path in written] == ["ablation.json", "ablation.png"]
    content = json.loads(written[0].read_text())
    assert (content["split"], content["images"], content["confidence"]) == ("val", 2, 0.95)
    assert list(content["definitions"]) == list(METRICS)
    first, second, third = content["rows"]
    assert first["gain"]["voc_ap"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert second["metrics"]["voc_ap"]["value"] == pytest.approx(0.52 / 3)
    assert (second["seconds_per_image"], second["cost"]) == (0.3, pytest.approx(1.5))
    assert third == {"name": "context", "skipped": "not trained: give --context-weights"}
    with Image.open(written[1]) as image:
        image.load()
        assert image.width > 800


def test_the_plot_shows_numbers_and_gains_of_what_was_measured() -> None:
    axes = ablation_figure(ROWS).axes
    assert len(axes) == 6
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        "baseline",
        "[b]$r_{2",
    ]
    points = [list(line.get_xdata()) for line in axes[0].lines if line.get_marker() == "o"]
    assert points == [[50.0], [52.0]]
    ranges = [list(line.get_xdata()) for line in axes[3].lines if line.get_marker() != "o"]
    assert ranges == [[0, 0], pytest.approx([0.1, 3.9]), [0, 0]]


def test_undefined_numbers_are_null_and_a_dash(tmp_path: Path) -> None:
    empty = {name: Estimate(math.nan, np.full(101, math.nan), DRAWS) for name in METRICS}
    rows = [Row("baseline", estimates=empty), Row("refinement", estimates=empty)]
    assert "-" in printed(rows)
    written = write_ablation(rows, tmp_path, about={})
    [first, _] = json.loads(written[0].read_text())["rows"]
    assert first["metrics"]["voc_ap50"] == {"value": None, "low": None, "high": None}
    assert first["seconds_per_image"] is None
