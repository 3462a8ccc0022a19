"""The figures that compare runs and networks, read back from matplotlib's objects."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
from matplotlib.figure import Figure
from resdet.detection.engine import comparison
from resdet.detection.engine.comparison import PANELS, curves_of, plot_responses, plot_runs
from resdet.detection.engine.history import History, LogEntry


def classifier(*, worse: float = 0.0) -> History:
    train = [
        LogEntry("train", s, {"train_top1_error": 0.9 - s / 100, "loss": 3.0}) for s in range(50)
    ]
    evaluations = [
        LogEntry("eval", step, {"val_top1_error": 0.8 - step / 200 + worse, "val_top5_error": 0.3})
        for step in (10, 20, 30)
    ]
    return History((*train, *evaluations))


def detector() -> History:
    return History(
        (
            LogEntry("train", 1, {"loss": 2.0}),
            LogEntry("train", 2, {"loss": math.nan}),
            LogEntry("eval", 2, {"voc_ap50": 0.5, "coco_ap": math.nan}),
        )
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures behind the images that a test writes."""
    seen: list[Figure] = []
    original = comparison.saved_figure

    @contextmanager
    def saved_figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
        with original(path, size) as figure:
            seen.append(figure)
            yield figure

    monkeypatch.setattr(comparison, "saved_figure", saved_figure)
    return seen


def test_training_is_thin_and_validation_bold_in_the_colour_of_the_run(
    figures: list[Figure], tmp_path: Path
) -> None:
    path = plot_runs({"plain": classifier(worse=0.1), "res": classifier()}, tmp_path / "a.png")
    assert cv2.imread(str(path)).shape[0] > 100
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["top-1 error", "top-5 error", "loss"]
    lines = figures[0].axes[0].lines
    assert [line.get_linewidth() for line in lines] == [0.8, 2.5, 0.8, 2.5]
    assert [line.get_color() for line in lines] == ["C0", "C0", "C1", "C1"]
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "res"]
    assert list(lines[1].get_xdata()) == [10, 20, 30]
    assert list(lines[1].get_ydata()) == pytest.approx([0.85, 0.8, 0.75])


def test_a_detector_beside_a_classifier(figures: list[Figure], tmp_path: Path) -> None:
    plot_runs({"d": detector(), "c": classifier()}, tmp_path / "a.svg")
    counts = {axes.get_title(): len(axes.lines) for axes in figures[0].axes}
    assert counts == {"top-1 error": 2, "top-5 error": 1, "loss": 2, "mAP@0.5 (VOC)": 1}
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_what_is_not_finite_or_not_measured_is_no_curve() -> None:
    loss, coco = PANELS[2], PANELS[4]
    assert [(c.kind, c.steps, c.values) for c in curves_of(detector(), loss)] == [
        ("train", [1], [2.0])
    ]
    assert curves_of(detector(), coco) == []
    assert curves_of(History(), loss) == []


def test_smoothing_by_hand() -> None:
    entries = [LogEntry("train", s, {"loss": v}) for s, v in enumerate([4.0, 0.0, 2.0, 6.0])]
    entries += [LogEntry("eval", s, {"val_loss": v}) for s, v in enumerate([4.0, 0.0])]
    train, evaluation = curves_of(History(tuple(entries)), PANELS[2], 2)
    assert train.values == [4.0, 2.0, 1.0, 4.0]
    assert evaluation.values == [4.0, 0.0]


def test_many_runs_differ_in_colour_or_dashes(figures: list[Figure], tmp_path: Path) -> None:
    plot_runs({str(index): detector() for index in range(25)}, tmp_path / "a.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in figures[0].axes[0].lines}
    assert len(looks) == 25


def test_no_runs(tmp_path: Path) -> None:
    assert plot_runs({}, tmp_path / "a.png").is_file()


def test_responses_in_both_orders(figures: list[Figure], tmp_path: Path) -> None:
    plot_responses({"a": [1.0, 3.0, 2.0], "b": [0.5]}, tmp_path / "r.png")
    top, bottom = figures[0].axes
    assert [list(line.get_ydata()) for line in top.lines] == [[1, 3, 2], [0.5]]
    assert [list(line.get_ydata()) for line in bottom.lines] == [[3, 2, 1], [0.5]]
    assert list(top.lines[0].get_xdata()) == [1, 2, 3]
