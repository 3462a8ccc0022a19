"""The files and the printed table of an evaluation, with hostile class names."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from matplotlib import image as mpl_image
from resdet.detection.drawing import class_colour
from resdet.detection.evaluation.detection import DetectionEvaluation, evaluate
from resdet.detection.evaluation.figures import pr_figure
from resdet.detection.evaluation.report import print_report, write_report
from resdet.detection.structures import Annotation, Detections, Record
from rich.console import Console

NAMES = ["=cmd()", "[bold]été[/bold]", "_$x$", "eel"]
DETECTIONS = {
    "b": Detections(
        torch.tensor([[10.5, 20, 30, 60], [0, 0, 5, 5]]),
        torch.tensor([0.3, 0.1]),
        torch.tensor([1, 0]),
    ),
    "a": Detections.empty(),
}


def records() -> list[Record]:
    annotation = Annotation(
        torch.tensor([[10.0, 20, 30, 60], [50, 50, 90, 90], [100, 100, 130, 150]]),
        torch.tensor([1, 2, 0]),
        torch.zeros(3, dtype=torch.bool),
    )
    return [
        Record("a", Path("a.jpg"), (200, 200), Annotation.empty()),
        Record("b", Path("b.jpg"), (200, 200), annotation),
    ]


@pytest.fixture(scope="module")
def evaluation() -> DetectionEvaluation:
    return evaluate(DETECTIONS, records(), NAMES)


def printed(evaluation: DetectionEvaluation, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(evaluation, Console(file=stream, width=width))
    return stream.getvalue()


def test_files(evaluation: DetectionEvaluation, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "eval"
    written = write_report(evaluation, folder)
    names = [
        "confusion_matrix.png",
        "images.json",
        "metrics.json",
        "per_class.csv",
        "pr_curve.png",
    ]
    assert sorted(path.name for path in written) == names
    assert sorted(path.name for path in folder.iterdir()) == names
    assert len(write_report(evaluation, folder)) == 5  # again, over the old files


def test_metrics_json(evaluation: DetectionEvaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    assert content["classes"] == NAMES
    assert content["images"] == 2
    assert content["metrics"]["voc_ap50"] == pytest.approx(1 / 3)
    assert content["per_class"][3]["voc_ap50"] is None
    assert content["per_class"][1]["voc_ap50"] == 1.0
    assert set(content["metrics"]) <= set(content["definitions"])
    assert content["notes"] == ["without objects, left out of the means: eel"]


def test_per_class_csv(evaluation: DetectionEvaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Best first, undefined last; a name that a spreadsheet would run is quoted.
    assert [row["name"] for row in rows] == ["[bold]été[/bold]", "'=cmd()", "_$x$", "eel"]
    assert [row["voc_ap50"] for row in rows] == ["1.0", "0.0", "0.0", ""]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_pr_curve(evaluation: DetectionEvaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    pixels = mpl_image.imread(tmp_path / "pr_curve.png")
    assert pixels.shape[0] > 300
    assert pixels.std() > 0.01
    curves = evaluation.ranked_curves()
    labels = {row.name: label for label, row in enumerate(evaluation.per_class)}
    [axes] = pr_figure(curves, evaluation.metrics["voc_ap50"], labels).axes
    colours = [tuple(round(255 * part) for part in line.get_color()) for line in axes.lines]
    assert colours == [class_colour(labels[name]) for name in curves]  # as their boxes are drawn
    assert [line.get_label() for line in axes.lines] == [
        "1.000 [bold]été[/bold]",
        "0.000 =cmd()",
        "0.000 _$x$",
    ]
    legend = axes.get_legend()
    assert legend is not None
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_table(evaluation: DetectionEvaluation) -> None:
    text = printed(evaluation)
    positions = [text.index(name) for name in ("[bold]été[/bold]", "=cmd()", "_$x$", "eel")]
    assert positions == sorted(positions)
    [row] = [line for line in text.splitlines() if line.split()[:1] == ["eel"]]
    assert row.split() == ["eel", "0", "0", "0", "-", "-", "-", "-", "-", "-"]
    [totals] = [line for line in text.splitlines() if line.split()[:1] == ["all"]]
    assert totals.split()[:6] == ["all", "3", "0", "2", "0.333", "0.333"]
    for name in evaluation.metrics:
        assert name in text
    assert "ilsvrc_ap" not in text and "DET" not in text
    assert "note: without objects, left out of the means: eel" in text


def test_a_narrow_terminal_loses_no_number(evaluation: DetectionEvaluation) -> None:
    rows = [line.split() for line in printed(evaluation, width=80).splitlines()]
    [totals] = [row for row in rows if row[:1] == ["all"]]
    assert totals[1:6] == ["3", "0", "2", "0.333", "0.333"]


def test_empty_everything(tmp_path: Path) -> None:
    for nothing in (evaluate({}, [], []), evaluate({}, [], ["cat"], coco=None)):
        write_report(nothing, tmp_path)
        content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        assert set(content["metrics"].values()) == {None}
        assert "no objects to find" in printed(nothing)
