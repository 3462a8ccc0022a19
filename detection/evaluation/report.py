"""How does a person, a spreadsheet or another program get to see an evaluation?

Class names are data: they are never read as markup, formula or mathematics.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..structures import Detections
from .score import CLASS_DEFINITIONS, DEFINITIONS, VOC_IOU, ClassScores, Evaluation

#: Heading of each column of the per-class table, by field of ClassScores.
_HEADINGS = {
    "objects": "objects",
    "ignored": "ignored",
    "detections": "found",
    "voc_ap50": "AP50\narea",
    "voc_ap50_11point": "AP50\n11-pt",
    "coco_ap": "COCO\nAP",
    "precision": "P",
    "recall": "R",
    "threshold": "score",
}

#: More curves than this cannot be told apart by a legend.
_LEGEND_LIMIT = 20
#: A matrix of more classes than this cannot be read.
_MATRIX_LIMIT = 60


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    detections: Mapping[str, Detections] | None = None,
) -> tuple[Path, ...]:
    """Write ``metrics.json``, ``per_class.csv``, ``pr_curve.png`` and, up to 60 classes,
    ``confusion_matrix.png``; returns what was written.

    With ``detections`` also ``detections.json``. The folder is made; existing files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "metrics.json", folder / "per_class.csv", folder / "pr_curve.png"]
    _write_metrics(evaluation, written[0])
    _write_per_class(evaluation, written[1])
    pr_figure(evaluation).savefig(written[2])
    if 0 < len(evaluation.per_class) <= _MATRIX_LIMIT:
        written.append(folder / "confusion_matrix.png")
        confusion_figure(evaluation).savefig(written[-1])
    if detections is not None:
        written.append(folder / "detections.json")
        write_detections(detections, [row.name for row in evaluation.per_class], written[-1])
    return tuple(written)


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Per class, best first, then every overall number with its definition, then the notes."""
    console.print(_class_table(evaluation), "", _metric_table(evaluation), "", sep="\n")
    for name, heading in _HEADINGS.items():
        if name in CLASS_DEFINITIONS:
            console.print(Text(f"{heading}: {CLASS_DEFINITIONS[name]}"))
    if evaluation.testing:
        console.print(Text(f"tested with: {evaluation.testing}"))
    for note in evaluation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def write_detections(
    detections: Mapping[str, Detections], classes: Sequence[str], path: Path
) -> None:
    """A list of results as in COCO, with the class names, images by sorted id.

    ``bbox`` is (x, y, width, height) in original pixels, ``category_id`` is label + 1; scores and
    boxes are not rounded.
    """
    results = [
        result
        for image_id in sorted(detections)
        for result in _results(image_id, detections[image_id].to("cpu"), classes)
    ]
    _write_json(results, path)


def pr_figure(evaluation: Evaluation) -> Figure:
    """Precision over recall of every class with objects, on a canvas of its own."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    figure.suptitle(
        f"Precision and recall at IoU >= {VOC_IOU}, all scores, ignored objects left out"
    )
    axes.set_title(f"mean AP {_shown(evaluation.metrics['voc_ap50'])} (area)", fontsize="medium")
    axes.grid(alpha=0.3)
    pairs = zip(evaluation.per_class, evaluation.curves, strict=True)
    shown = sorted((pair for pair in pairs if pair[0].objects), key=lambda pair: _rank(pair[0]))
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))
    for row, curve in shown:
        # The AP first: a label that starts with an underscore would be left out of the legend.
        label = f"{row.voc_ap50:.3f} {row.name}"
        axes.plot(curve.recall, curve.precision, lw=1.2, label=label)
    if 0 < len(shown) <= _LEGEND_LIMIT:
        legend = axes.legend(
            title="AP50 (area)", fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def confusion_figure(evaluation: Evaluation) -> Figure:
    """The counts of the confusion matrix, shaded by their share of their column."""
    table = evaluation.confusion
    names = [row.name for row in evaluation.per_class]
    side = 3 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="truly is", ylabel="found as")
    axes.set_title(
        f"score >= {table.score}, IoU >= {table.iou}; last row: missed, last column: nothing there",
        fontsize="small",
    )
    shares = table.counts / table.counts.sum(axis=0, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [*names, "background"]
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(range(len(labels)), labels)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.tick_params(axis="x", rotation=90)
    for (row, column), count in np.ndenumerate(table.counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, size="small")
    return figure


def _write_metrics(evaluation: Evaluation, path: Path) -> None:
    content = {
        "images": evaluation.images,
        "classes": [row.name for row in evaluation.per_class],
        "metrics": _without_nan(evaluation.metrics),
        "per_class": [_without_nan(asdict(row)) for row in evaluation.per_class],
        "definitions": {name: DEFINITIONS[name] for name in evaluation.metrics}
        | dict(CLASS_DEFINITIONS),
        "confusion": {
            "counts": evaluation.confusion.counts.tolist(),
            "score": evaluation.confusion.score,
            "iou": evaluation.confusion.iou,
            "layout": "row found as, column truly is; last: background",
        },
        "testing": evaluation.testing,
        "seconds_per_image": evaluation.seconds_per_image,
        "notes": list(evaluation.notes),
    }
    _write_json(content, path, indent=2)


def _write_per_class(evaluation: Evaluation, path: Path) -> None:
    names = [field.name for field in fields(ClassScores)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in sorted(evaluation.per_class, key=_rank):
            writer.writerow([_cell(getattr(row, name)) for name in names])


def _write_json(content: Any, path: Path, *, indent: int | None = None) -> None:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    path.write_text(text + "\n", encoding="utf-8")


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan: undefined numbers become null."""
    return {name: None if _undefined(value) else value for name, value in values.items()}


def _cell(value: Any) -> Any:
    """A CSV cell: empty when undefined, and never something a spreadsheet takes for a formula."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return "" if _undefined(value) else value


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: Any) -> str:
    """A number in a table: counts as they are, fractions with three digits."""
    if _undefined(value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _rank(row: ClassScores) -> float:
    """Sorts rows by falling AP; undefined ones last, equal ones stay in label order."""
    return math.inf if _undefined(row.voc_ap50) else -row.voc_ap50


def _class_table(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("class", overflow="fold")
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in sorted(evaluation.per_class, key=_rank):
        table.add_row(Text(row.name), *(_shown(getattr(row, name)) for name in _HEADINGS))
    table.add_section()
    table.add_row("all", *_totals(evaluation))
    return table


def _totals(evaluation: Evaluation) -> Iterator[str]:
    """The last row: sums of the counts, the means that are metrics, else nothing."""
    for name in _HEADINGS:
        if name in ("objects", "ignored", "detections"):
            yield str(sum(getattr(row, name) for row in evaluation.per_class))
        else:
            yield _shown(evaluation.metrics[name]) if name in evaluation.metrics else ""


def _metric_table(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column(f"{evaluation.images} images", justify="right", no_wrap=True)
    table.add_column("definition", overflow="fold")
    for name, value in evaluation.metrics.items():
        table.add_row(name, _shown(value), DEFINITIONS[name])
    if evaluation.seconds_per_image is not None:
        cost = f"{evaluation.seconds_per_image:.3f}"
        table.add_row("seconds per image", cost, "network and suppression, without reading")
    return table


def _results(image_id: str, found: Detections, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    corner, opposite = found.boxes.double().split(2, dim=1)
    bboxes = torch.cat([corner, opposite - corner], dim=1).tolist()
    rows = zip(bboxes, found.scores.tolist(), found.labels.tolist(), strict=True)
    for bbox, score, label in rows:
        yield {
            "image_id": image_id,
            "category_id": label + 1,
            "category_name": classes[label],
            "bbox": bbox,
            "score": score,
        }
