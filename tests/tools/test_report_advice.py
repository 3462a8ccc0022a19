"""What the page of a run says to do next, by what is in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from resdet.detection.engine.history import History, LogEntry, read_history
from resdet.tools.run_evaluation import still_rising
from resdet.tools.run_page import build_page


def _history(name: str, *values: float) -> History:
    entries = [
        LogEntry("eval", 100 * number, {name: value, "val_loss": 1.0})
        for number, value in enumerate(values, start=1)
    ]
    return History(tuple(entries))


@pytest.mark.parametrize(
    ("name", "values", "rising"),
    [
        ("voc_ap50", (0.2, 0.4), True),
        ("voc_ap50", (0.2, 0.4, 0.405), False),  # hardly
        ("voc_ap50", (0.5, 0.3, 0.45), False),  # it was better before
        ("voc_ap50", (0.4,), False),
        ("voc_ap50", (float("nan"), 0.4), False),
        ("top1_error", (0.4, 0.2), True),
        ("top1_error", (0.2, 0.4), False),
        ("val_loss", (0.4, 0.2), False),
    ],
)
def test_longer_training_where_the_curve_still_rises(
    name: str, values: tuple[float, ...], rising: bool
) -> None:
    advice = still_rising(_history(name, *values))
    assert bool(advice) == rising
    if rising:
        first, last = 100 * len(values) - 100, 100 * len(values)
        assert advice == (
            f"{name} was still getting better when the training ended: {values[-2]:.3f} at step "
            f"{first}, {values[-1]:.3f} at step {last}. To do: train longer, --resume RUN with "
            "more train.iterations or train.epochs"
        )


def test_the_page_says_so(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for step, value in ((1000, 0.31), (2000, 0.52)):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(LogEntry("eval", step, {"voc_ap50": value}).to_line())
    assert "0.310 at step 1000, 0.520 at step 2000" in build_page(run).advice
    assert still_rising(read_history(run)) in build_page(run).advice.splitlines()
