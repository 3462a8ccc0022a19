"""Records with boxes: labels by class name, and the rules for bad boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..detection.config.base import OnBadBox
from ..detection.structures import Annotation, Record
from .class_names import class_list, unknown_names
from .findings import Finding, Outcome, refuse
from .records import RawBox, RawImage, RawObject

#: A box with at least this fraction of its area inside the image is clipped under every policy.
LEAST_INSIDE = 0.5
#: A side of at most this many pixels is probably a stray click.
TINY_SIDE = 1.0


@dataclass(frozen=True)
class DataSplit:
    """Records with labels in the order of ``classes``, and all findings.

    ``annotated`` is False where the objects of the images are not known: there is nothing to score.
    Images without objects are included: detectors train on them as background.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    annotated: bool = True

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each box that was dropped, clipped or fixed; the last word says which."""
        return tuple(str(finding) for finding in self.findings if finding.outcome)


def assemble(
    images: Sequence[RawImage],
    *,
    classes: Sequence[str] | None,
    ignore_classes: Sequence[str] = (),
    on_bad_box: OnBadBox = "error",
) -> DataSplit:
    """`label_images`, but errors among the findings raise `DataError`."""
    split = label_images(
        images, classes=classes, ignore_classes=ignore_classes, on_bad_box=on_bad_box
    )
    refuse(split.findings, f"annotations (on_bad_box: {on_bad_box})")
    return split


def label_images(
    images: Sequence[RawImage],
    *,
    classes: Sequence[str] | None,
    ignore_classes: Sequence[str] = (),
    on_bad_box: OnBadBox = "error",
) -> DataSplit:
    """Records of the images of one or several sources, with the findings about them.

    ``classes`` None takes the names that occur, sorted; objects of ``ignore_classes`` are dropped
    (not marked ``ignore``). A box at least half inside its image is clipped to it and counted.
    Other bad boxes are errors, unless ``on_bad_box`` resolves them: ``drop`` removes them, ``clip``
    clips those partly outside, ``fix`` swaps swapped corners.

    Records do not contain what an error is about: a second image of the same id, an object of an
    unknown class, a bad box. Raises `DataError` for an inconsistent class list.
    """
    names = class_list(images, classes, ignore_classes)
    images, findings = _first_of_each_id(images)
    findings += unknown_names(images, {*names, *ignore_classes}, names)
    labels = {name: label for label, name in enumerate(names)}
    records = []
    for image in images:
        kept: list[tuple[RawBox, RawObject]] = []
        for where, obj, box in _labelled_objects(image, labels):
            verdict = _judge(box, image.size, on_bad_box)
            if verdict.kind:
                findings.append(_bad_box(verdict, image, where, obj))
            if verdict.box:
                kept.append((verdict.box, obj))
        findings += _repeated(image)
        records.append(Record(image.image_id, image.path, image.size, _annotation(kept, labels)))
    return DataSplit(tuple(records), names, tuple(findings))


def count_skipped(findings: Iterable[Finding]) -> int:
    """The number of images that were left out because they cannot be used."""
    return sum(finding.outcome == "skipped" for finding in findings)


def describe(split: DataSplit) -> str:
    """One line for the log: the number of images and objects, by class."""
    with_objects = sum(len(record.annotation) > 0 for record in split.records)
    labels = Counter(
        label for record in split.records for label in record.annotation.labels.tolist()
    )
    ignored = sum(int(record.annotation.ignore.sum()) for record in split.records)
    outcomes = Counter(finding.outcome for finding in split.findings if finding.box)
    del outcomes[""]
    per_class = ", ".join(f"{name} {labels[label]}" for label, name in enumerate(split.classes))
    boxes = "".join(f", boxes {outcome} {count}" for outcome, count in sorted(outcomes.items()))
    return (
        f"images: {len(split.records)} (with objects {with_objects}, "
        f"empty {len(split.records) - with_objects}, skipped {count_skipped(split.findings)}), "
        f"objects: {labels.total()} ({per_class}), of these ignored {ignored}{boxes}"
    )


def _first_of_each_id(images: Sequence[RawImage]) -> tuple[list[RawImage], list[Finding]]:
    """Results and metrics identify images by id."""
    first: dict[str, RawImage] = {}
    findings = []
    for image in images:
        other = first.setdefault(image.image_id, image)
        if other is not image:
            reason = f"the id is used twice: {other.path} and {image.path}"
            where = f"image {image.image_id}"
            findings.append(
                Finding("image_id_twice", "error", image.source, reason, where, image.path)
            )
    return list(first.values()), findings


# ---------------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class _Verdict:
    """The box to use (None: drop the object), and the finding about it."""

    box: RawBox | None
    kind: str = ""
    reason: str = ""
    outcome: Outcome = ""


def _labelled_objects(
    image: RawImage, labels: dict[str, int]
) -> list[tuple[str, RawObject, RawBox]]:
    """(where, object, box) of the objects with a label; boxes rounded to float32, as in records."""
    if not image.objects:
        return []
    with np.errstate(over="ignore"):  # 1e39 becomes inf, which is then refused
        rounded = np.array([obj.box for obj in image.objects], np.float64).astype(np.float32)
    return [
        (_where(image, obj, number), obj, _as_box(box))
        for number, (obj, box) in enumerate(zip(image.objects, rounded.tolist(), strict=True), 1)
        if obj.name in labels
    ]


def _where(image: RawImage, obj: RawObject, number: int) -> str:
    return f"{image.path.name}: {obj.reference or f'object {number}'} ({obj.name})"


def _as_box(values: list[float]) -> RawBox:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _bad_box(verdict: _Verdict, image: RawImage, where: str, obj: RawObject) -> Finding:
    sides = ", ".join(f"{side:g}" for side in obj.box)
    usable = verdict.box is not None or verdict.outcome
    return Finding(
        verdict.kind,
        "warning" if usable else "error",
        image.source,
        f"box ({sides}): {verdict.reason}",
        where,
        image.path,
        obj.box,
        verdict.outcome,
    )


def _repeated(image: RawImage) -> list[Finding]:
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
    if inside >= LEAST_INSIDE or policy == "clip":
        return _Verdict(cut, "partly_outside", reason, "clipped")
    return _Verdict(None, "partly_outside", reason, bad)


def _annotation(kept: Sequence[tuple[RawBox, RawObject]], labels: dict[str, int]) -> Annotation:
    areas = [math.nan if obj.area is None else obj.area for _, obj in kept]
    return Annotation(
        torch.tensor([box for box, _ in kept], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[obj.name] for _, obj in kept], dtype=torch.int64),
        torch.tensor([obj.ignore for _, obj in kept], dtype=torch.bool),
        None if all(map(math.isnan, areas)) else torch.tensor(areas, dtype=torch.float64),
    )
