"""How does the data doctor's report become one HTML page that opens offline and can be mailed?

Thumbnails and histograms are inline, the style is named in the page's content security policy by
its hash, and there is no script. File and class names are data: every text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...detection.errors import ConfigError, ImageError
from ...detection.files import write_file
from ..findings import Finding, meaning
from ..image import ImageRules, Pixels, read_image
from ..records import RawBox
from .check import Report
from .decoder_complaints import heard_complaints
from .statistics import Histogram

_HERE = Path(__file__).parent
#: What can be shown is shown, whatever training would refuse.
_SHOWN = ImageRules(on_truncated="warn", min_side=1, max_aspect=1e9)
_SEVERITIES = ("error", "warning", "note")
#: Images of each kind of fault, and their longer side in pixels.
_MOST_THUMBNAILS, _SIDE = 12, 200
#: Lines of each kind; the JSON report has all.
_MOST_LINES = 1000
_RED = (230, 30, 30)


@dataclass(frozen=True)
class Thumbnail:
    """``uri`` is a JPEG data URI, empty where the image cannot be shown; ``why`` says why not."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""


@dataclass(frozen=True)
class Kind:
    """All findings of one kind; ``lines`` are the first of ``count``."""

    name: str
    severity: str
    meaning: str
    count: int
    thumbnails: Sequence[Thumbnail]
    lines: Sequence[str]


@dataclass(frozen=True)
class Bar:
    """Of a histogram drawn 100 high; ``x``, ``width`` and ``height`` in its units."""

    label: str
    count: int
    x: float
    width: float
    height: float


def write_check_page(report: Report, path: Path) -> None:
    """One file, nothing beside it; raises ConfigError where it cannot be written."""
    # Names of files may hold bytes that are no text; a page may not.
    data = render_check_page(report).encode("utf-8", "backslashreplace")
    write_file(path, data, error=ConfigError)


def render_check_page(report: Report) -> str:
    """The HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["numbers"] = lambda values: ", ".join(f"{value:g}" for value in values)
    style = environment.get_template("report.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    counts = {
        severity: sum(finding.severity == severity for finding in report.findings)
        for severity in _SEVERITIES
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        style_hash=f"sha256-{digest}",
        counts=counts,
        boxes=any(finding.box for finding in report.findings),
        kinds=_kinds(report.findings),
        histograms=[(each, _bars(each)) for each in report.histograms],
        most=max((sum(each.objects) for each in report.classes), default=0),
    )


def _kinds(findings: Sequence[Finding]) -> list[Kind]:
    """Errors first, the frequent ones of a severity first."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    order = sorted(groups, key=lambda key: (_SEVERITIES.index(key[0]), -len(groups[key]), key[1]))
    return [
        Kind(
            name.replace("_", " "),
            severity,
            meaning(name),
            len(groups[severity, name]),
            _thumbnails(groups[severity, name]),
            [str(finding) for finding in groups[severity, name][:_MOST_LINES]],
        )
        for severity, name in order
    ]


# ---------------------------------------------------------------------------------- thumbnails


def _thumbnails(findings: Sequence[Finding]) -> list[Thumbnail]:
    """The first few images, each with all boxes that this kind of fault is about."""
    boxes: dict[Path, list[RawBox]] = defaultdict(list)
    captions: dict[Path, str] = {}
    for finding in findings:
        if finding.image is not None:
            boxes[finding.image] += [finding.box] if finding.box else []
            said = ": ".join(part for part in (finding.object, finding.reason) if part)
            captions.setdefault(finding.image, f"{finding.image.name}: {said}")
    return [
        _thumbnail(image, boxes[image], caption)
        for image, caption in list(captions.items())[:_MOST_THUMBNAILS]
    ]


def _thumbnail(image: Path, boxes: Sequence[RawBox], caption: str) -> Thumbnail:
    try:
        with heard_complaints(pass_on=False):  # told already, with the file's name
            pixels = read_image(image, _SHOWN).pixels
    except ImageError as error:
        return Thumbnail(caption, why=str(error).removeprefix(f"{image}: "))
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    for box in boxes:
        _draw(small, box, scale)
    done, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        return Thumbnail(caption, why="cannot be encoded")
    uri = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
    return Thumbnail(caption, uri, *size)


def _draw(pixels: Pixels, box: RawBox, scale: float) -> None:
    """The box, and a ring about it where it is too small to see; a non-finite one has no place."""
    if not all(map(math.isfinite, box)):
        return
    # Far outside is drawn at the border: the drawing takes 16-bit coordinates.
    x1, y1, x2, y2 = (int(min(max(side * scale, -5.0), _SIDE + 5.0)) for side in box)
    cv2.rectangle(pixels, (x1, y1), (x2, y2), _RED, 1)
    if max(abs(x2 - x1), abs(y2 - y1)) < 5:
        cv2.circle(pixels, ((x1 + x2) // 2, (y1 + y2) // 2), 8, _RED, 1)


# ---------------------------------------------------------------------------------- histograms


def _bars(histogram: Histogram) -> list[Bar]:
    """Equally wide, whatever the edges: sizes grow by octaves."""
    most = max(histogram.counts, default=0) or 1
    return [
        Bar(
            label=f"{low:g}-{high:g}",
            count=count,
            x=75.0 * number,
            width=65.0,
            height=100.0 * count / most,
        )
        for number, ((low, high), count) in enumerate(
            zip(pairwise(histogram.edges), histogram.counts, strict=True)
        )
    ]


def write_report(report: Report, path: Path) -> None:
    """As JSON; boxes may hold ``"nan"`` and ``"inf"``. Raises ConfigError where it cannot."""
    write_file(path, json.dumps(report_as_dict(report), indent=1) + "\n", error=ConfigError)


def report_as_dict(report: Report) -> dict[str, object]:
    """Numbers, texts and lists only; ``counts`` has the findings of each severity and kind."""
    counts: dict[str, Counter[str]] = {"error": Counter(), "warning": Counter(), "note": Counter()}
    for finding in report.findings:
        counts[finding.severity][finding.kind] += 1
    return {key: _plain(each) for key, each in {"counts": counts, **asdict(report)}.items()}


def _plain(value: object) -> object:
    """JSON has neither paths nor non-finite numbers."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
