"""Figures that compare several runs or networks.

Files are PNG, JPEG, PDF or SVG, by suffix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..fonts import drawable
from .history import History, Kind
from .plots import LINES, saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


@dataclass(frozen=True)
class Panel:
    """One pair of axes with a thin line of ``training`` and a bold one of ``evaluation`` per run.

    Both are names of values in the history; ``training`` may be empty.
    """

    title: str
    training: str
    evaluation: str


#: The first is the paper's Fig. 4: "thin curves denote training error, and bold curves validation
#: error". Panels without any values are left out.
PANELS = (
    Panel("top-1 error", "train_top1_error", "val_top1_error"),
    Panel("top-5 error", "", "val_top5_error"),
    Panel("loss", "loss", "val_loss"),
    Panel("mAP@0.5 (VOC)", "", "voc_ap50"),
    Panel("AP (COCO)", "", "coco_ap"),
    Panel("mAP (ILSVRC DET)", "", "ilsvrc_ap"),
)


@dataclass(frozen=True)
class Curve:
    """The finite values of one run in one panel."""

    kind: Kind
    steps: list[int]
    values: list[float]


def curves_of(history: History, panel: Panel, smooth: int = 1) -> list[Curve]:
    """The non-empty curves of training and evaluation.

    Training values are means of up to ``smooth`` entries, each with those before it.
    """
    training = _curve(history, "train", panel.training)
    evaluation = _curve(history, "eval", panel.evaluation)
    training = replace(training, values=_smoothed(training.values, smooth))
    return [curve for curve in (training, evaluation) if curve.steps]


def plot_runs(runs: Mapping[str, History], path: Path, *, smooth: int = 1) -> Path:
    """Write the panels of all runs, each run in one colour with its name in the legend."""
    panels = [p for p in PANELS if any(curves_of(history, p) for history in runs.values())]
    with saved_figure(path, (7.0 * max(1, len(panels)), 5.0)) as figure:
        cells = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for axes, panel in zip(cells, panels, strict=False):
            _axes(axes, panel.title, "step")
            for index, (name, history) in enumerate(runs.items()):
                shown = drawable(name, plotted=True)
                _draw_run(axes, index, shown, curves_of(history, panel, smooth))
            axes.legend(fontsize="small")
    return path


def plot_responses(networks: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Standard deviations of the layers' responses, in the order of the layers (top) and sorted by
    size (bottom), as in the paper's Fig. 7."""
    with saved_figure(path, (9.0, 8.0)) as figure:
        top, bottom = figure.subplots(2, 1)
        _axes(top, "responses by layer", "layer (original order)", "standard deviation")
        _axes(bottom, "responses by size", "layer (sorted by size)", "standard deviation")
        for index, (name, stds) in enumerate(networks.items()):
            places = range(1, len(stds) + 1)
            for axes, values in ((top, list(stds)), (bottom, sorted(stds, reverse=True))):
                axes.plot(
                    places,
                    values,
                    label=drawable(name, plotted=True),
                    linewidth=1,
                    marker=".",
                    color=_colour(index),
                    linestyle=_dashes(index),
                )
        for axes in (top, bottom):
            axes.set_ylim(bottom=0)
            axes.legend(fontsize="small")
    return path


def _draw_run(axes: Axes, index: int, name: str, curves: Sequence[Curve]) -> None:
    """The last curve, the bold one of two, is in the legend."""
    for curve in curves:
        axes.plot(
            curve.steps,
            curve.values,
            label=name if curve is curves[-1] else None,
            linewidth=2.5 if curve.kind == "eval" else 0.8,
            marker="o" if len(curve.steps) == 1 else None,
            color=_colour(index),
            linestyle=_dashes(index),
        )


def _colour(index: int) -> str:
    return f"C{index % len(LINES)}"


def _dashes(index: int) -> str:
    """Where the colours repeat, lines are dashed."""
    return ("-", "--", ":", "-.")[index // len(LINES) % 4]


def _axes(axes: Axes, title: str, x_label: str, y_label: str = "") -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)


def _curve(history: History, kind: Kind, name: str) -> Curve:
    known = [
        (entry.step, entry.values[name])
        for entry in history.of(kind)
        if name in entry.values and math.isfinite(entry.values[name])
    ]
    return Curve(kind, [step for step, _ in known], [value for _, value in known])


def _smoothed(values: Sequence[float], window: int) -> list[float]:
    means = []
    for index in range(len(values)):
        recent = values[max(0, index + 1 - window) : index + 1]
        means.append(sum(recent) / len(recent))
    return means
