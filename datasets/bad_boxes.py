"""The rules for bad boxes: which are kept, clipped to the image, fixed or dropped."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..detection.config.base import OnBadBox
from .finding_kinds import Severity
from .findings import Finding, Outcome
from .records import RawBox, RawImage, RawObject

#: A box with at least this fraction of its area inside the image is clipped under every policy.
LEAST_INSIDE = 0.5
#: A box that leaves the image by less than this many pixels, or this fraction of its side, was
#: rounded: corners from YOLO files with six decimals do, by up to 0.0075 px for sides of 10,000.
ROUNDING_PIXELS = 1.0
ROUNDING_FRACTION = 1e-3
#: A side of at most this many pixels is probably a stray click.
TINY_SIDE = 1.0


def usable_objects(
    image: RawImage, names: Container[str] | None, on_bad_box: OnBadBox
) -> tuple[list[tuple[RawBox, RawObject]], list[Finding]]:
    """The (box to use, object) of an image's objects whose name is in ``names``, or of all, and the
    findings about their boxes."""
    kept, findings = [], []
    for where, obj, box in _named_objects(image, names):
        verdict = _judge(box, image.size, on_bad_box)
        if verdict.kind:
            findings.append(_bad_box(verdict, image, where, obj))
        if verdict.box:
            kept.append((verdict.box, obj))
    return kept, findings


def resolve_boxes(
    images: Iterable[RawImage], on_bad_box: OnBadBox
) -> tuple[list[RawImage], list[Finding]]:
    """The images with the objects that training would use, with the boxes it would use, and the
    findings; boxes that are right stay as they are, to the last digit."""
    resolved, findings = [], []
    for image in images:
        kept, faults = usable_objects(image, None, on_bad_box)
        objects = (
            obj if box == _as_box(np.array(obj.box, np.float32).tolist()) else replace(obj, box=box)
            for box, obj in kept
        )
        resolved.append(replace(image, objects=tuple(objects)))
        findings += faults
    return resolved, join_rounded(findings)


def join_rounded(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, with one note in place of those of kind ``rounded_box``."""
    rounded = [finding for finding in findings if finding.kind == "rounded_box"]
    if not rounded:
        return list(findings)
    first = rounded[0]
    reason = (
        f"{len(rounded)} boxes leave their image by less than {ROUNDING_PIXELS:g} px or "
        f"{ROUNDING_FRACTION:.1%} of its side, clipped; the first: {first.reason}"
    )
    others = [finding for finding in findings if finding.kind != "rounded_box"]
    return [*others, replace(first, reason=reason)]


@dataclass(frozen=True)
class _Verdict:
    """The box to use (None: drop the object), and the finding about it."""

    box: RawBox | None
    kind: str = ""
    reason: str = ""
    outcome: Outcome = ""


def _named_objects(
    image: RawImage, names: Container[str] | None
) -> list[tuple[str, RawObject, RawBox]]:
    """(where, object, box) of the objects; boxes rounded to float32, as in records."""
    if not image.objects:
        return []
    with np.errstate(over="ignore"):  # 1e39 becomes inf, which is then refused
        rounded = np.array([obj.box for obj in image.objects], np.float64).astype(np.float32)
    return [
        (_where(image, obj, number), obj, _as_box(box))
        for number, (obj, box) in enumerate(zip(image.objects, rounded.tolist(), strict=True), 1)
        if names is None or obj.name in names
    ]


def _where(image: RawImage, obj: RawObject, number: int) -> str:
    return f"{image.path.name}: {obj.reference or f'object {number}'} ({obj.name})"


def _as_box(values: list[float]) -> RawBox:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _bad_box(verdict: _Verdict, image: RawImage, where: str, obj: RawObject) -> Finding:
    sides = ", ".join(f"{side:g}" for side in obj.box)
    usable = verdict.box is not None or verdict.outcome
    severity: Severity = "warning" if usable else "error"
    if verdict.kind == "rounded_box":
        severity = "note"
    return Finding(
        verdict.kind,
        severity,
        image.source,
        f"box ({sides}): {verdict.reason}",
        where,
        image.path,
        obj.box,
        verdict.outcome,
    )


def repeated_objects(image: RawImage) -> list[Finding]:
    """Objects of the same class and box as an earlier one of the image."""
    first: dict[tuple[str, RawBox], str] = {}
    findings = []
    for number, obj in enumerate(image.objects, 1):
        where = _where(image, obj, number)
        other = first.setdefault((obj.name, obj.box), where)
        if other is not where and all(map(math.isfinite, obj.box)):
            reason = f"same class and box as {other}"
            findings.append(
                Finding(
                    "duplicate_object", "warning", image.source, reason, where, image.path, obj.box
                )
            )
    return findings


def _judge(box: RawBox, size: tuple[int, int], policy: OnBadBox) -> _Verdict:
    bad: Outcome = "dropped" if policy == "drop" else ""
    if all(map(math.isnan, box)):
        return _Verdict(None, "non_finite_box", "has neither box nor segmentation", bad)
    if not all(map(math.isfinite, box)):
        return _Verdict(None, "non_finite_box", "missing or non-finite coordinates", bad)
    x1, y1, x2, y2 = box
    if x1 == x2 or y1 == y2:
        return _Verdict(None, "no_area", "no area", bad)
    if x2 < x1 or y2 < y1:
        if policy != "fix":
            return _Verdict(None, "swapped_corners", "swapped corners", bad)
        ordered = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        inside = _judge(ordered, size, policy)
        reason = " and ".join(filter(None, ("swapped corners", inside.reason)))
        return _Verdict(inside.box, "swapped_corners", reason, "fixed" if inside.box else "")
    return _judge_outside(box, size, policy, bad)


def _judge_outside(box: RawBox, size: tuple[int, int], policy: OnBadBox, bad: Outcome) -> _Verdict:
    (height, width), (x1, y1, x2, y2) = size, box
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    cut_width, cut_height = cut[2] - cut[0], cut[3] - cut[1]
    if cut == box:
        if min(cut_width, cut_height) > TINY_SIDE:
            return _Verdict(box)
        return _Verdict(box, "tiny_box", f"only {cut_width:g}x{cut_height:g} px, a click?")
    if cut_width <= 0 or cut_height <= 0:
        return _Verdict(None, "outside_image", f"outside the {width}x{height} image", bad)
    inside = cut_width / (x2 - x1) * (cut_height / (y2 - y1))
    reason = f"{inside:.1%} inside the {width}x{height} image"
    if all(map(is_rounding, cut, box, (width, height) * 2)):
        return _Verdict(cut, "rounded_box", reason)
    if inside >= LEAST_INSIDE or policy == "clip":
        return _Verdict(cut, "partly_outside", reason, "clipped")
    return _Verdict(None, "partly_outside", reason, bad)


def is_rounding(inside: float, corner: float, side: int) -> bool:
    """Whether a corner is within the tolerance of the edge that it is clipped to."""
    return abs(inside - corner) < max(ROUNDING_PIXELS, ROUNDING_FRACTION * side)
