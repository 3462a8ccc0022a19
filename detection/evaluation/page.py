"""The contents of a run's report page, and its rendering as self-contained HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..pages.rendering import render_html
from ..pages.shots import Shot, class_hex
from .class_page import ClassView, ConfusionTable
from .error_page import ErrorView

#: The facts of a run that say what it is.
SUBJECT = (
    "detector",
    "classifier",
    "localizer, stage one",
    "localizer, stage two",
    "images evaluated",
)
#: The number of a page by task, whether a larger one is better, and what it says; each class has it
#: too, or the number named in between.
HEADLINES: Mapping[str, tuple[bool, str, str]] = {
    "voc_ap50": (
        True,
        "voc_ap50",
        "mAP at IoU 0.5, 1 if every object is found and nothing else, 0 if none is",
    ),
    "top1_error": (False, "top1_error", "share of the images given a wrong class; 0 is best"),
    "top5_localization_error": (
        False,
        "top1_localization_error",
        "share of the images with none of five answers of the right class and place; 0 is best",
    ),
    "true_class_error": (
        False,
        "true_class_error",
        "share of the images whose object is not where the box for its class is (IoU under 0.5); "
        "0 is best",
    ),
}


@dataclass(frozen=True)
class Metric:
    """A number with its definition; ``value`` is None if it is undefined, ``low`` and ``high``
    without an interval."""

    name: str
    value: float | None
    definition: str
    low: float | None = None
    high: float | None = None

    @property
    def is_error(self) -> bool:
        """Whether a smaller value is better."""
        return self.name in HEADLINES and not HEADLINES[self.name][0]

    @property
    def says(self) -> str:
        """What it says in plain words."""
        return HEADLINES[self.name][2] if self.name in HEADLINES else self.definition


@dataclass(frozen=True)
class ClassTable:
    """One row per class, its name in the first cell; ``bar_column`` is drawn as a bar from 0 to 1.

    ``definitions`` explain columns. Cells are numbers, texts or None.
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[float | str | None]] = ()
    bar_column: int = -1
    definitions: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class PageSection:
    """A heading with images below; ``small`` images are several in a row, ``first`` ones come
    before the tables, ``folded`` ones are unfolded by a click."""

    title: str
    images: Sequence[Shot]
    text: str = ""
    small: bool = False
    first: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The contents of the page; empty parts are left out.

    ``facts`` and ``files`` are (name, value) rows, ``details`` (name, long text) to unfold.
    ``advice`` is what to do next, ``labels`` are those of the classes, which define their colours.
    ``confused`` are the classes of a detector and, the last one, no object, with detections of
    ``confusion_score`` and above.
    """

    title: str
    metrics: Sequence[Metric] = ()
    per_class: ClassTable = ClassTable()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    details: Sequence[tuple[str, str]] = ()
    sections: Sequence[PageSection] = ()
    files: Sequence[tuple[str, str]] = ()
    advice: str = ""
    errors: ErrorView | None = None
    confusions: ClassView | None = None
    confused: ConfusionTable | None = None
    confusion_score: float = 0.0
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What was evaluated, in a line."""
        return "; ".join(f"{name}: {value}" for name, value in self.facts if name in SUBJECT)

    @property
    def headline(self) -> Metric | None:
        """The first number of HEADLINES that was measured."""
        found = {metric.name: metric for metric in self.metrics}
        known = [found[name] for name in HEADLINES if name in found]
        return next((each for each in known if each.value is not None), next(iter(known), None))


def class_table(
    rows: Sequence[Mapping[str, float | str | None]], definitions: Mapping[str, str]
) -> ClassTable:
    """The table of ``per_class`` in ``metrics.json``: best AP or largest error first, undefined
    ones last. Columns without any value are left out.

    ``rows`` have the key ``name`` and the same further keys. Raises ValueError where not.
    """
    if not rows:
        return ClassTable()
    columns = list(rows[0])
    if "name" not in columns or any(list(row) != columns for row in rows):
        raise ValueError("per_class: the rows do not have the same keys, one of them 'name'")
    columns.sort(key=lambda name: name != "name")
    columns = [name for name in columns if any(row[name] is not None for row in rows)]
    bar = next((name for _, name, _ in HEADLINES.values() if name in columns), "")
    return ClassTable(
        columns=["class", *columns[1:]],
        rows=[
            [row[name] for name in columns] for row in sorted(rows, key=lambda row: _rank(row, bar))
        ],
        bar_column=columns.index(bar) if bar else -1,
        definitions=[(name, definitions[name]) for name in columns if name in definitions],
    )


def render_page(page: Page) -> str:
    """The HTML text of the whole page."""
    template = Path(__file__).with_name("page.html.j2")
    filters = {"number": _number, "colour": class_hex}
    scripts = ("boxes.js", "errors.js") if page.errors else ()
    return render_html(template, filters, scripts=scripts, page=page)


def _rank(row: Mapping[str, float | str | None], name: str) -> float:
    """Best AP or largest error first."""
    value = row.get(name)
    return -value if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _number(value: float | str | None) -> str:
    """Fractions with three digits, a dash for undefined values, others unchanged."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
