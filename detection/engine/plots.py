"""Figures of a run: curves, batches, labels and detections.

Every function writes one image (PNG or JPEG, by suffix) and returns its path; an empty figure has a
note. ``pyplot`` is not used: it keeps figures in memory and needs a display. matplotlib is imported
late: it takes 0.3 s, and most commands draw nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...datasets.image import DEFAULT_RULES, ImageRules, read_image
from ...datasets.record_columns import Records
from ..drawing import Colour, DrawnBox, class_colour, draw_boxes
from ..files import atomic_write
from ..fonts import drawable, drawable_names, use_fonts
from ..inference.draw import detected_boxes
from ..structures import Annotation, Batch, Detections, Record
from .history import LogEntry, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most images in a grid.
MAX_IMAGES = 16
#: Most bars with names; the rarer classes share the last bar.
MAX_BARS = 40
#: Most points of the box-size scatter; larger sets are sampled.
MAX_POINTS = 20_000
#: Grey.
IGNORED_COLOUR: Colour = (153, 153, 153)
#: The colours of lines (Okabe and Ito), which all people can tell apart.
LINES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
#: The metrics of detectors in the right panel.
SCORES = ("ilsvrc_ap", "voc_ap50", "voc_ap50_11point", "coco_ap", "coco_ap50", "coco_ap75")
#: The metrics of classifiers and localizers there.
ERRORS = ("train_top1_error", "val_top1_error", "val_top5_error", "val_true_class_error")
_CELL_INCHES = 4.0


def plot_curves(folder: Path, path: Path | None = None) -> Path:
    """Losses, learning rate and mAP or errors over the steps, from ``metrics.jsonl`` of a run
    folder.

    The default ``path`` is ``folder/plots/curves.png``.
    """
    history = read_history(folder)
    train, evaluations = history.of("train"), history.of("eval")
    losses = {name: _series(train, name) for name in _names(train) if name.startswith("loss")}
    val_losses = {
        name: _series(evaluations, name) for name in _names(evaluations) if "loss" in name
    }
    scores = {name: _series(evaluations, name) for name in SCORES}
    errors = {name: _series([*train, *evaluations], name) for name in ERRORS}
    title = "error" if any(steps for steps, _ in errors.values()) else "average precision"
    with saved_figure(path or folder / "plots" / "curves.png", (15.0, 4.5)) as figure:
        left, middle, right = figure.subplots(1, 3)
        _lines(left, "loss", losses)
        _lines(left, "loss", val_losses, style="o--")
        _lines(middle, "learning rate", {"lr": _series(train, "lr")})
        _lines(right, title, scores, style="o-")
        _lines(right, title, errors)
        right.set_ylim(0, 1)
        for axes in (left, middle, right):
            _close_axes(axes, "nothing logged yet")
    return path or folder / "plots" / "curves.png"


def plot_batch(batch: Batch, classes: Sequence[str], path: Path) -> Path:
    """The first images of a training batch as network inputs, with their boxes, if any. Titles are
    the images' classes; without classes, their ids and sizes.

    Ignored objects are grey and dashed.
    """
    with _grid(path, min(len(batch), MAX_IMAGES)) as cells:
        for index, axes in enumerate(cells):
            height, width = batch.sizes[index]
            pixels = batch.images[index, :, :height, :width].permute(1, 2, 0).cpu().numpy()
            title = f"{batch.image_ids[index]} {width}x{height}"
            if len(batch.labels):
                title = drawable_names(tuple(classes), plotted=True)[int(batch.labels[index])]
            drawn = []
            if batch.annotations:
                drawn = _annotated(batch.annotations[index].to("cpu"), classes)
            _show(axes, pixels, title, drawn)
    return path


def plot_detections(
    records: Sequence[Record],
    detections: Mapping[str, Detections],
    classes: Sequence[str],
    path: Path,
    *,
    min_score: float = 0.5,
    rules: ImageRules = DEFAULT_RULES,
) -> Path:
    """Ground truth (left) beside predictions of at least ``min_score`` (right), original pixels.

    ``detections`` are by ``image_id``; an image without an entry is titled "not predicted".
    Raises ImageError for an image that cannot be read.
    """
    shown = records[: MAX_IMAGES // 2]
    with _grid(path, 2 * len(shown), columns=2) as cells:
        for record, truth, predicted in zip(shown, cells[0::2], cells[1::2], strict=True):
            pixels = read_image(record.path, rules).pixels
            title = f"{record.image_id}: ground truth"
            _show(truth, pixels, title, _annotated(record.annotation, classes))
            found = detections.get(record.image_id)
            if found is None:
                _show(predicted, pixels, "not predicted")
                continue
            boxes = detected_boxes(found[found.scores >= min_score].to("cpu"), classes)
            _show(predicted, pixels, f"predicted, score >= {min_score:g}", boxes)
    return path


def plot_labels(records: Records, classes: Sequence[str], path: Path) -> Path:
    """The number of objects of each class, and the widths and heights of the boxes in pixels."""
    boxes = records.boxes
    counted = Counter(records.labels[~records.ignore].tolist())
    ignored = Counter(records.labels[records.ignore].tolist())
    bars = _bars(counted, ignored, classes)
    with saved_figure(path, (14.0, max(4.5, 1.5 + 0.22 * len(bars)))) as figure:
        left, right = figure.subplots(1, 2)
        _draw_bars(left, bars)
        left.set_title(f"{len(boxes)} objects in {len(records)} images")
        _draw_box_sizes(right, boxes)
    return path


def plot_image_labels(records: Records, classes: Sequence[str], path: Path) -> Path:
    """The number of images of each class."""
    counts = Counter(records.image_labels[records.image_labels >= 0].tolist())
    bars = _bars(counts, Counter(), classes)
    with saved_figure(path, (7.0, max(4.5, 1.5 + 0.22 * len(bars)))) as figure:
        axes = figure.subplots()
        _draw_bars(axes, bars, "images")
        axes.set_title(f"{len(records)} images of {len(classes)} classes")
    return path


def _names(entries: Sequence[LogEntry]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry.values))


def _series(entries: Sequence[LogEntry], name: str) -> tuple[list[int], list[float]]:
    """Steps and values; NaN is kept and leaves a gap in the line."""
    known = [entry for entry in entries if name in entry.values]
    return [entry.step for entry in known], [entry.values[name] for entry in known]


def _lines(
    axes: Axes, title: str, series: Mapping[str, tuple[list[int], list[float]]], style: str = "-"
) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    for name, (steps, values) in series.items():
        if any(math.isfinite(value) for value in values):
            shown = style if len(steps) > 1 else "o"  # one point makes no line
            axes.plot(steps, values, shown, label=name, linewidth=1, markersize=3)


def _close_axes(axes: Axes, empty_text: str) -> None:
    if axes.lines:
        axes.legend(fontsize="small")
    else:
        _write_centred(axes, empty_text)


def _write_centred(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def _show(axes: Axes, pixels: np.ndarray, title: str, drawn: Sequence[DrawnBox] = ()) -> None:
    """The image with boxes in its pixels, at the resolution of the cell, so that many boxes cost
    little and labels are legible whatever the size of the image."""
    scale = 100 * _CELL_INCHES / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    shown = cv2.resize(
        np.ascontiguousarray(pixels),
        size,
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST,
    )
    boxes = [replace(each, box=[side * scale for side in each.box]) for each in drawn]
    axes.imshow(draw_boxes(np.asarray(shown, np.uint8), boxes))
    axes.set_title(drawable(title, plotted=True), fontsize="small")


def _annotated(annotation: Annotation, classes: Sequence[str]) -> list[DrawnBox]:
    names = drawable_names(tuple(classes))
    rows = zip(
        annotation.boxes.tolist(),
        annotation.labels.tolist(),
        annotation.ignore.tolist(),
        strict=True,
    )
    return [
        DrawnBox(box, IGNORED_COLOUR, f"{names[label]} (ignored)", dashed=True)
        if ignore
        else DrawnBox(box, class_colour(label), names[label])
        for box, label, ignore in rows
    ]


def _bars(
    counted: Counter[int], ignored: Counter[int], classes: Sequence[str]
) -> list[tuple[str, int, int]]:
    """(name, objects, ignored objects), the most frequent first; every class is in one bar."""
    total = counted + ignored
    order = sorted(range(len(classes)), key=lambda label: (-total[label], label))
    cut = len(order) if len(order) <= MAX_BARS else MAX_BARS - 1
    names = drawable_names(tuple(classes), plotted=True)
    bars = [(names[label], counted[label], ignored[label]) for label in order[:cut]]
    if rest := order[cut:]:
        sums = [sum(counts[label] for label in rest) for counts in (counted, ignored)]
        bars.append((f"({len(rest)} other classes)", sums[0], sums[1]))
    return bars


def _draw_bars(axes: Axes, bars: Sequence[tuple[str, int, int]], counted: str = "objects") -> None:
    axes.set_xlabel(counted)
    if not bars:
        _write_centred(axes, "no classes")
        return
    names, counts, ignored = zip(*bars, strict=True)
    places = range(len(bars))
    axes.barh(places, counts, label=counted)
    if any(ignored):
        axes.barh(places, ignored, left=counts, color="0.6", label="ignored")
        axes.legend(fontsize="small")
    axes.set_yticks(places, labels=[str(name) for name in names], fontsize="small")
    axes.invert_yaxis()


def _draw_box_sizes(axes: Axes, boxes: np.ndarray) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_title("box sizes")
    axes.set_xlabel("width (pixels)")
    axes.set_ylabel("height (pixels)")
    if not len(boxes):
        _write_centred(axes, "no objects")
        return
    stride = -(-len(boxes) // MAX_POINTS)
    sides = boxes[::stride, 2:] - boxes[::stride, :2]
    axes.scatter(sides[:, 0], sides[:, 1], s=4, alpha=0.4, linewidths=0, rasterized=True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


@contextmanager
def _grid(path: Path, count: int, columns: int = 4) -> Iterator[list[Axes]]:
    """``count`` cells without axes, row by row."""
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    with saved_figure(path, (_CELL_INCHES * columns, _CELL_INCHES * rows)) as figure:
        cells = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for axes in cells:
            axes.axis("off")
        if not count:
            _write_centred(cells[0], "no images")
        yield cells[:count]


@contextmanager
def saved_figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of ``size`` (width, height) inches that is saved at the end.

    Class names are data: a ``$`` in them starts no formula, whatever the user's matplotlibrc says.
    """
    from matplotlib import rc_context, rcsetup
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain = rc_context({"text.parse_math": False, "text.usetex": False})
    with plain, rc_context({"axes.prop_cycle": rcsetup.cycler("color", LINES)}):
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        yield figure
        use_fonts(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            canvas.print_figure(part, format=path.suffix.removeprefix(".") or None)
