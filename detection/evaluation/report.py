"""The files and the printed tables of an evaluation, the same for every task.

Undefined numbers are nan; in JSON they are null, in CSV empty, in a printed table "-". Class names
are data: they are never read as markup, formula or mathematics.
"""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.table import Table

from ...datasets.class_words import with_words
from ..files import atomic_write, csv_cell, write_file
from ..fonts import use_fonts
from ..printing import cell
from .bootstrap import CONFIDENCE, RESAMPLES, Interval
from .image_records import IMAGES, write_images
from .tables import is_undefined, plain_table, shown, without_nan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Evaluation(ABC):
    """The numbers of one model on one data set; each task has a subclass.

    ``metrics`` are fractions with the keys of ``definitions``. ``per_class`` has a ``row_type`` for
    each class, in label order. ``notes`` are one-line warnings.
    """

    images: int
    metrics: Mapping[str, float]
    per_class: tuple[Any, ...]
    _: KW_ONLY
    notes: tuple[str, ...] = ()
    #: How the predictions were made, and their cost if it was measured.
    testing: str = ""
    #: SHA-256 of each file of weights; none for detections of other origin.
    weights: tuple[str, ...] = ()
    seconds_per_image: float | None = None
    #: Metrics of a trivial predictor, if it was evaluated as well.
    baseline: Mapping[str, float] = field(default_factory=dict)
    #: The file of each image by its id, as far as it is known.
    files: Mapping[str, str] = field(default_factory=dict)
    #: What classes that are ids are called, as far as it is known.
    class_words: Mapping[str, str] = field(default_factory=dict)
    #: Resamples of the images for the intervals; 0: no intervals.
    resamples: int = RESAMPLES

    task: ClassVar[str]
    #: A dataclass with a ``name``.
    row_type: ClassVar[type]
    #: Definition of each metric; two numbers are comparable only if these lines agree.
    definitions: ClassVar[Mapping[str, str]]
    #: The columns of the per-class table that are no metrics, and further keys of `more`.
    class_definitions: ClassVar[Mapping[str, str]]
    #: Heading of each printed column of the per-class table, by field of its rows.
    headings: ClassVar[Mapping[str, str]]
    #: What the seconds per image include.
    cost: ClassVar[str] = "network, without reading"
    digits: ClassVar[int] = 4
    #: Maximum number of printed classes.
    max_rows: ClassVar[int | None] = 20

    @staticmethod
    @abstractmethod
    def rank(row: Any) -> float:
        """The key by which per-class rows are sorted; equal ones stay in label order, nan last."""

    def definition(self, name: str) -> str:
        """The definition of a metric in this evaluation."""
        return self.definitions[name]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of some metrics: what other images of the same kind might have given."""
        return self.measure_intervals() if self.resamples and self.images else {}

    def measure_intervals(self) -> dict[str, Interval]:
        """From ``resamples`` draws of the images, or in closed form."""
        return {}

    def image_entries(self) -> list[dict[str, Any]]:
        """What went wrong in each image, for `write_images`, in any order."""
        return []

    def image_header(self) -> dict[str, Any]:
        """What the entries of all images share."""
        return {}

    def tables(self) -> Iterator[Table]:
        """Further printed tables."""
        yield from ()

    def more(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``."""
        return {}

    def total(self, name: str) -> str | None:
        """The cell of the per-class table's last row; no such row if all are None."""
        return None

    def remarks(self) -> Iterator[str]:
        """Lines to print below the tables."""
        yield from ()

    def figures(self) -> dict[str, Figure]:
        """Figures by file name."""
        return {}

    @property
    def ranked(self) -> list[Any]:
        def key(row: Any) -> float:
            value = self.rank(row)
            return math.inf if math.isnan(value) else value

        return sorted(self.per_class, key=key)


def write_report(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write ``metrics.json``, ``per_class.csv``, ``images.json`` (see `image_records.py`) and the
    figures; returns what was written.

    The folder is created; existing files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics, table = folder / "metrics.json", folder / "per_class.csv"
    write_json(_content(evaluation), metrics)
    write_file(table, _csv_table(evaluation))
    figures = {folder / name: figure for name, figure in evaluation.figures().items()}
    for path, figure in figures.items():
        use_fonts(figure)
        with atomic_write(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix("."))
    images = folder / IMAGES
    if entries := evaluation.image_entries():
        classes = [row.name for row in evaluation.per_class]
        header = {"task": evaluation.task, "classes": classes, **evaluation.image_header()}
        write_images(images, header, entries)
    else:  # of another evaluation
        images.unlink(missing_ok=True)
    return metrics, table, *([images] if entries else []), *figures


def print_report(evaluation: Evaluation, console: Console) -> None:
    """The classes, every metric with its definition, remarks and notes."""
    rows = evaluation.ranked[: evaluation.max_rows]
    console.print(_class_table(evaluation, rows))
    if hidden := len(evaluation.per_class) - len(rows):
        console.print(cell(f"and {hidden} better classes"))
    console.print("", _metric_table(evaluation), "", sep="\n")
    for table in evaluation.tables():
        console.print(table, "", sep="\n")
    for line in evaluation.remarks():
        console.print(cell(line))
    if evaluation.testing:
        console.print(cell(f"tested with: {evaluation.testing}"))
    for note in evaluation.notes:
        console.print(cell(f"note: {note}", "yellow"))


def write_json(content: object, path: Path, *, indent: int | None = 2) -> None:
    """Write JSON atomically; raises ValueError for a nan, see `without_nan`."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    write_file(path, text + "\n")


def _content(evaluation: Evaluation) -> dict[str, Any]:
    definitions = {name: evaluation.definition(name) for name in evaluation.metrics}
    intervals = {
        name: without_nan({"low": each.low, "high": each.high})
        for name, each in evaluation.intervals.items()
    }
    words = {
        row.name: evaluation.class_words[row.name]
        for row in evaluation.per_class
        if row.name in evaluation.class_words
    }
    return {
        "task": evaluation.task,
        "images": evaluation.images,
        "classes": [row.name for row in evaluation.per_class],
        **({"class_words": words} if words else {}),
        "metrics": without_nan(evaluation.metrics),
        "intervals": intervals,
        **evaluation.more(),
        "per_class": [without_nan(asdict(row)) for row in evaluation.per_class],
        "definitions": definitions | dict(evaluation.class_definitions),
        "testing": evaluation.testing,
        "weights": list(evaluation.weights),
        "seconds_per_image": evaluation.seconds_per_image,
        "notes": list(evaluation.notes),
    }


def _csv_table(evaluation: Evaluation) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([each.name for each in fields(evaluation.row_type)])
    for row in map(asdict, evaluation.ranked):
        writer.writerow(["" if is_undefined(value) else csv_cell(value) for value in row.values()])
    return text.getvalue()


def _class_table(evaluation: Evaluation, rows: list[Any]) -> Table:
    table = plain_table()
    table.add_column("class", overflow="fold")
    headings = {
        name: heading
        for name, heading in evaluation.headings.items()
        if not all(is_undefined(getattr(row, name)) for row in rows)
    }
    for name, heading in headings.items():
        if any(isinstance(getattr(row, name), str) for row in rows):
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = (shown(getattr(row, name), evaluation.digits) for name in headings)
        words = evaluation.class_words
        table.add_row(*(cell(with_words(text, words)) for text in (row.name, *cells)))
    totals = [evaluation.total(name) for name in headings]
    if any(totals):
        table.add_section()
        table.add_row("all", *totals)
    return table


def _metric_table(evaluation: Evaluation) -> Table:
    digits, baseline = evaluation.digits, evaluation.baseline
    table = plain_table()
    table.add_column("metric", no_wrap=True)
    table.add_column(f"{evaluation.images} images", justify="right", no_wrap=True)
    intervals = evaluation.intervals
    if intervals:
        table.add_column(f"{CONFIDENCE:.0%}", justify="right", no_wrap=True)
    if baseline:
        table.add_column("baseline", justify="right", no_wrap=True)
    table.add_column("definition", overflow="fold")
    for name, value in evaluation.metrics.items():
        further = [_range(intervals.get(name), digits)] if intervals else []
        further += [shown(baseline.get(name, math.nan), digits)] if baseline else []
        table.add_row(name, shown(value, digits), *further, evaluation.definition(name))
    if evaluation.seconds_per_image is not None:
        gap = [""] * (bool(intervals) + bool(baseline))
        seconds = shown(evaluation.seconds_per_image, digits)
        table.add_row("seconds per image", seconds, *gap, evaluation.cost)
    return table


def _range(interval: Interval | None, digits: int) -> str:
    if interval is None or math.isnan(interval.low):
        return ""
    return f"{interval.low:.{digits}f}-{interval.high:.{digits}f}"
