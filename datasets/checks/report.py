"""The report of ``check-data`` as a self-contained HTML page and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from ...detection.errors import ConfigError, ImageError
from ...detection.files import write_file
from ...detection.html import jpeg_data_uri, render_html
from ..finding_kinds import SEVERITIES, meaning
from ..findings import Finding
from ..image import ImageRules, Pixels, read_image
from ..records import RawBox
from .check import Report
from .statistics import Histogram

#: Rules that show as many images as possible, also those that training refuses.
_SHOWN = ImageRules(on_truncated="warn", min_side=1, max_aspect=1e9)
#: Thumbnails per kind of finding, and their longer side in pixels.
_MAX_THUMBNAILS, _SIDE = 12, 200
#: Lines per kind of finding; the JSON report has all.
_MAX_LINES = 1000
_RED = (230, 30, 30)


@dataclass(frozen=True)
class Thumbnail:
    """``uri`` is a JPEG data URI, or empty if the image cannot be shown; ``why`` is the reason."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""


@dataclass(frozen=True)
class Kind:
    """All findings of one kind; ``lines`` has the first of ``count``."""

    name: str
    severity: str
    meaning: str
    count: int
    thumbnails: Sequence[Thumbnail]
    lines: Sequence[str]


def write_check_page(report: Report, path: Path) -> None:
    """Write the page as one file; raises ConfigError if it cannot be written."""
    # File names may contain bytes that are not valid text.
    data = render_check_page(report).encode("utf-8", "backslashreplace")
    write_file(path, data, error=ConfigError)


def render_check_page(report: Report) -> str:
    """The page as HTML text."""
    return render_html(
        Path(__file__).with_name("report.html.j2"),
        {"numbers": lambda values: ", ".join(f"{value:g}" for value in values)},
        report=report,
        counts={
            severity: sum(finding.severity == severity for finding in report.findings)
            for severity in SEVERITIES
        },
        boxes=any(finding.box for finding in report.findings),
        kinds=_kinds(report.findings),
        histograms=[(each, _bars(each)) for each in report.histograms],
        most=max((sum(each.objects) for each in report.classes), default=0),
    )


def _kinds(findings: Sequence[Finding]) -> list[Kind]:
    """Sorted by severity, then by frequency."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    order = sorted(groups, key=lambda key: (SEVERITIES.index(key[0]), -len(groups[key]), key[1]))
    return [
        Kind(
            name.replace("_", " "),
            severity,
            meaning(name),
            len(groups[severity, name]),
            _thumbnails(groups[severity, name]),
            [str(finding) for finding in groups[severity, name][:_MAX_LINES]],
        )
        for severity, name in order
    ]


def _thumbnails(findings: Sequence[Finding]) -> list[Thumbnail]:
    """Thumbnails of the first images, each with all boxes of this kind of finding."""
    boxes: dict[Path, list[RawBox]] = defaultdict(list)
    captions: dict[Path, str] = {}
    for finding in findings:
        if finding.image is not None:
            boxes[finding.image] += [finding.box] if finding.box else []
            text = ": ".join(part for part in (finding.object, finding.reason) if part)
            captions.setdefault(finding.image, f"{finding.image.name}: {text}")
    return [
        _thumbnail(image, boxes[image], caption)
        for image, caption in list(captions.items())[:_MAX_THUMBNAILS]
    ]


def _thumbnail(image: Path, boxes: Sequence[RawBox], caption: str) -> Thumbnail:
    try:
        pixels = read_image(image, _SHOWN).pixels
    except ImageError as error:
        return Thumbnail(caption, why=str(error).removeprefix(f"{image}: "))
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    for box in boxes:
        _draw(small, box, scale)
    return Thumbnail(caption, jpeg_data_uri(small), *size)


def _draw(pixels: Pixels, box: RawBox, scale: float) -> None:
    """Draw the box, with a circle if it is very small; a non-finite box is not drawn."""
    if not all(map(math.isfinite, box)):
        return
    # Clamped to just outside the image: OpenCV draws with 16-bit coordinates.
    x1, y1, x2, y2 = (int(min(max(side * scale, -5.0), _SIDE + 5.0)) for side in box)
    cv2.rectangle(pixels, (x1, y1), (x2, y2), _RED, 1)
    if max(abs(x2 - x1), abs(y2 - y1)) < 5:
        cv2.circle(pixels, ((x1 + x2) // 2, (y1 + y2) // 2), 8, _RED, 1)


def _bars(histogram: Histogram) -> list[tuple[str, int, float]]:
    """(label, count, height) of each bin; the highest bar is 100 high."""
    most = max(histogram.counts, default=0) or 1
    return [
        (f"{low:g}-{high:g}", count, 100.0 * count / most)
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
    return {key: _plain(each) for key, each in {"counts": counts, **asdict(report)}.items()}


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
