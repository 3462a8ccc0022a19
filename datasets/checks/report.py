"""The report of ``check-data`` as a self-contained HTML page and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from ...detection.errors import ConfigError, ImageError
from ...detection.files import write_file
from ...detection.pages.rendering import render_html
from ...detection.pages.shots import ImageBudget, Shot, class_hex, mark_of
from ..finding_kinds import SEVERITIES, meaning
from ..finding_remedies import remedy
from ..findings import Finding
from ..image import ImageRules, read_image
from ..records import RawBox
from .check import Report
from .examples import MAX_OF_KIND, Exhibits
from .statistics import Histogram

#: Rules that show as many images as possible, also those that training refuses.
_SHOWN = ImageRules(on_truncated="warn", min_side=1, max_aspect=1e9)
#: Bytes of all images of a page, and their longer side in pixels.
BUDGET, SIDE = 12_000_000, 480
#: Lines per kind of finding, and rows of the table of classes; the JSON report has all.
_MAX_LINES, _MAX_CLASSES = 1000, 400
#: Images with more boxes show them without labels.
_MAX_LABELS = 12
#: Boxes drawn in an image, those of findings first.
_MAX_MARKS = 300
_RED = "#ff2d2d"
#: Colours of splits in the plot of classes (Okabe and Ito), which all people can tell apart.
_SPLIT_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")


@dataclass(frozen=True)
class Kind:
    """All findings of one kind; ``lines`` has the first of ``count``. ``pairs`` are copies with
    what they are copies of."""

    name: str
    severity: str
    meaning: str
    remedy: str
    count: int
    shots: Sequence[Shot]
    pairs: Sequence[tuple[Shot, Shot]]
    lines: Sequence[str]

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return f"{self.severity}-{self.name}".replace(" ", "-")


@dataclass(frozen=True)
class ClassShots:
    """Images of a class; without a name, of any content."""

    name: str
    label: int
    shots: Sequence[Shot]


def write_check_page(report: Report, path: Path, command: str = "") -> None:
    """Write the page as one file, ``command`` as what to run next; raises ConfigError if it cannot
    be written."""
    # File names may contain bytes that are not valid text.
    data = render_check_page(report, command).encode("utf-8", "backslashreplace")
    write_file(path, data, error=ConfigError)


def render_check_page(report: Report, command: str = "") -> str:
    """The page as HTML text."""
    exhibits, images = report.exhibits, _ShownImages(report.exhibits, ImageBudget(BUDGET))
    examples = _examples(exhibits, images)  # first: they take a quarter of the budget at most
    kinds = _kinds(report.findings, images)
    covered = max((max(row) for row in exhibits.places), default=0) or 1
    return render_html(
        Path(__file__).with_name("report.html.j2"),
        {
            "numbers": lambda values: ", ".join(f"{value:g}" for value in values),
            "colour": class_hex,
        },
        report=report,
        command=command,
        counts={
            severity: sum(finding.severity == severity for finding in report.findings)
            for severity in SEVERITIES
        },
        boxes=any(finding.box for finding in report.findings),
        kinds=kinds,
        examples=examples,
        shown_classes=len(exhibits.classes),
        hidden_classes=max(
            0, sum(each.objects[:1] > (0,) for each in report.classes) - len(exhibits.classes)
        ),
        histograms=[(each, _bars(each)) for each in report.histograms],
        balance=_balance(report),
        colours=_SPLIT_COLOURS,
        places=[[count / covered for count in row] for row in exhibits.places],
        sizes=_points(exhibits),
        longest=max((max(size[:2]) for size in exhibits.sizes), default=1),
        side=SIDE,
        budget=f"{BUDGET / 1e6:.0f}",
    )


class _ShownImages:
    """Reads the images of a page while its budget lasts."""

    def __init__(self, exhibits: Exhibits, budget: ImageBudget) -> None:
        self._exhibits, self._budget = exhibits, budget

    def shot(self, path: Path, faulty: Sequence[RawBox] = (), caption: str = "") -> Shot:
        """The image with its objects, and the ``faulty`` boxes on top."""
        caption = caption or path.name
        if self._budget.spent:
            return Shot(caption, why=self._budget.why)
        try:
            pixels = read_image(path, _SHOWN).pixels
        except ImageError as error:
            return Shot(caption, why=str(error).removeprefix(f"{path}: "))
        shot = self._budget.take(Shot.inline(caption, pixels, max_side=SIDE))
        scale, size = shot.width / pixels.shape[1], (shot.height, shot.width)
        labels, objects = self._exhibits.labels, self._exhibits.objects.get(path, ())
        marks = [
            mark_of(
                each.box, scale, size, colour=class_hex(labels.get(each.name, -1)), name=each.name
            )
            for each in objects[: _MAX_MARKS - len(faulty)]
            if each.box not in faulty
        ]
        named = len(objects) <= _MAX_LABELS
        found = [mark_of(box, scale, size, colour=_RED) for box in faulty[:_MAX_MARKS]]
        return replace(
            shot,
            marks=(
                *(replace(mark, labelled=named) for mark in marks if mark),
                *(replace(mark, style="thick") for mark in found if mark),
            ),
        )


def _examples(exhibits: Exhibits, images: _ShownImages) -> list[ClassShots]:
    """With one image of each class they are together, the class in the caption."""
    if all(len(each.images) == 1 for each in exhibits.classes):
        paths = [(each.name, path) for each in exhibits.classes for path in each.images]
        shots = [images.shot(path, (), f"{name}: {path.name}") for name, path in paths]
        return [ClassShots("", -1, shots)] if shots else []
    return [
        ClassShots(each.name, each.label, [images.shot(path) for path in each.images])
        for each in exhibits.classes
    ]


def _kinds(findings: Sequence[Finding], images: _ShownImages) -> list[Kind]:
    """Sorted by severity, then by frequency."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    order = sorted(groups, key=lambda key: (SEVERITIES.index(key[0]), -len(groups[key]), key[1]))
    return [_kind(severity, name, groups[severity, name], images) for severity, name in order]


def _kind(severity: str, name: str, found: Sequence[Finding], images: _ShownImages) -> Kind:
    """With the first images, each with all boxes of this kind of finding."""
    first: dict[Path, Finding] = {}
    boxes: dict[Path, list[RawBox]] = defaultdict(list)
    for finding in found:
        if finding.image is not None:
            boxes[finding.image] += [finding.box] if finding.box else []
            first.setdefault(finding.image, finding)
    shots, pairs = [], []
    for path, finding in list(first.items())[:MAX_OF_KIND]:
        text = ": ".join(part for part in (finding.object, finding.reason) if part)
        if finding.original:
            text = text.replace(str(finding.original), finding.original.name)
        text = text.removeprefix(f"{path.name}: ")
        shot = images.shot(path, boxes[path], f"{path.name}: {text}")
        if finding.original:
            pairs.append((shot, images.shot(finding.original)))
        else:
            shots.append(shot)
    return Kind(
        name.replace("_", " "),
        severity,
        meaning(name),
        remedy(name),
        len(found),
        shots,
        pairs,
        [str(finding) for finding in found[:_MAX_LINES]],
    )


def _balance(report: Report) -> list[tuple[str, int, tuple[int, ...], list[tuple[float, str]]]]:
    """(name, label, objects by split, bars): the widths of the bars are shares of the objects of
    the split, the widest one 1."""
    totals = [max(1, split.objects) for split in report.splits]
    shares = [
        [count / total for count, total in zip(each.objects, totals, strict=False)]
        for each in report.classes
    ]
    widest = max((share for row in shares for share in row), default=0.0) or 1.0
    return [
        (
            each.name,
            label,
            each.objects,
            [
                (share / widest, _SPLIT_COLOURS[index % len(_SPLIT_COLOURS)])
                for index, share in enumerate(row)
            ],
        )
        for label, (each, row) in enumerate(zip(report.classes, shares, strict=True))
    ][:_MAX_CLASSES]


def _points(exhibits: Exhibits) -> list[tuple[int, int, float, str]]:
    """(width, height, radius, text) of each image size; the area of a circle is the number."""
    most = max((count for *_, count in exhibits.sizes), default=1)
    return [
        (width, height, max(1.5, 9 * math.sqrt(count / most)), f"{width} x {height}: {count}")
        for width, height, count in exhibits.sizes
    ]


def _bars(histogram: Histogram) -> list[tuple[str, str, int, float]]:
    """(from, to, count, height) of each bin; the highest bar is 100 high."""
    most = max(histogram.counts, default=0) or 1
    return [
        (f"{low:g}", f"{high:g}", count, 100.0 * count / most)
        for (low, high), count in zip(pairwise(histogram.edges), histogram.counts, strict=True)
    ]


def write_report(report: Report, path: Path) -> None:
    """Write JSON; boxes may have ``"nan"`` and ``"inf"``. Raises ConfigError if that fails."""
    write_file(path, json.dumps(report_as_dict(report), indent=1) + "\n", error=ConfigError)


def report_as_dict(report: Report) -> dict[str, object]:
    """The report as JSON types; ``counts`` is {severity: {kind: number of findings}}."""
    counts: dict[str, Counter[str]] = {severity: Counter() for severity in SEVERITIES}
    for finding in report.findings:
        counts[finding.severity][finding.kind] += 1
    fields = asdict(replace(report, exhibits=Exhibits(), scales=None))
    del fields["exhibits"], fields["scales"]  # of the page and of a proposed config alone
    return {key: _plain(each) for key, each in {"counts": counts, **fields}.items()}


def _plain(value: object) -> object:
    """Convert paths and non-finite numbers, which JSON does not have, to text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
