"""Precision-recall curves and the confusion matrix as figures; matplotlib is imported late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import class_colour
from .confusion import Confusion
from .voc import VOC_IOU, PrecisionRecall, area_ap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A matrix of more classes than this cannot be read.
MATRIX_LIMIT = 60
#: More curves than this cannot be distinguished by a legend.
_LEGEND_LIMIT = 20


def pr_figure(
    curves: Mapping[str, PrecisionRecall], mean_ap: float, labels: Mapping[str, int]
) -> Figure:
    """Precision over recall of every class, in the colours of their ``labels`` in drawings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    figure.suptitle(
        f"Precision and recall at IoU >= {VOC_IOU}, all scores, ignored objects left out"
    )
    mean = "-" if np.isnan(mean_ap) else f"{mean_ap:.3f}"
    axes.set_title(f"mean AP {mean} (area)", fontsize="medium")
    axes.grid(alpha=0.3)
    for name, curve in curves.items():
        # The AP first: a label that starts with an underscore would be left out of the legend.
        colour = [part / 255 for part in class_colour(labels[name])]
        label = f"{area_ap(curve):.3f} {name}"
        axes.plot(curve.recall, curve.precision, lw=1.2, color=colour, label=label)
    if 0 < len(curves) <= _LEGEND_LIMIT:
        legend = axes.legend(
            title="AP50 (area)", fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def confusion_figure(names: Sequence[str], confusion: Confusion) -> Figure:
    """The counts of the confusion matrix, shaded by their fraction of their column."""
    from matplotlib.figure import Figure

    side = 3 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1, side), dpi=110, layout="constrained")
    axes = figure.add_subplot(xlabel="true class", ylabel="predicted class")
    axes.set_title(
        f"score >= {confusion.score}, IoU >= {confusion.iou}; last row: missed, "
        "last column: no object",
        fontsize="small",
    )
    counts = confusion.counts
    fractions = counts / counts.sum(axis=0, keepdims=True).clip(min=1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    labels = [*names, "background"]
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(range(len(labels)), labels)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.tick_params(axis="x", rotation=90)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, size="small")
    return figure
