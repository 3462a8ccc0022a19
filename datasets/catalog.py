"""Records with boxes: labels by class name, and the rules for bad boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..detection.config.base import OnBadBox
from .bad_boxes import join_rounded, repeated_objects, usable_objects
from .class_names import class_list, unknown_names
from .findings import Finding, refuse
from .record_columns import RecordRow, Records
from .records import RawBox, RawImage, RawObject


@dataclass(frozen=True)
class DataSplit:
    """Records with labels in the order of ``classes``, and all findings.

    ``annotated`` is False where the objects of the images are not known: there is nothing to score.
    Images without objects are included: detectors train on them as background. ``left_out`` counts
    the difficult objects that were not read.
    """

    records: Records
    classes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    annotated: bool = True
    left_out: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", Records.of(self.records))

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
    declared: Callable[[], Collection[str]] = frozenset,
) -> DataSplit:
    """Records of the images of one or several sources, with the findings about them.

    ``classes`` None takes the names that occur, sorted; objects of ``ignore_classes`` are dropped
    (not marked ``ignore``). ``declared`` returns the names that the files of the data list, which
    are not suggested for each other. A box at least half inside its image is clipped to it and
    counted; one note counts those that leave it by rounding only. Other bad boxes are errors,
    unless ``on_bad_box`` resolves them: ``drop`` removes them, ``clip`` clips those partly outside,
    ``fix`` swaps swapped corners.

    Records do not contain what an error is about: a second image of the same id, an object of an
    unknown class, a bad box. Raises `DataError` for an inconsistent class list.
    """
    names = class_list(images, classes, ignore_classes)
    images, findings = _first_of_each_id(images)
    findings += unknown_names(images, {*names, *ignore_classes}, names, declared)
    labels = {name: label for label, name in enumerate(names)}

    def labelled() -> Iterator[RecordRow]:
        for image in images:
            kept, faults = usable_objects(image, labels, on_bad_box)
            findings.extend(faults + repeated_objects(image))
            yield _row(image, kept, labels)

    records = Records.of(labelled())
    left_out = sum(image.left_out for image in images)
    return DataSplit(records, names, tuple(join_rounded(findings)), left_out=left_out)


def all_dropped(split: DataSplit) -> list[Finding]:
    """An error if ``on_bad_box`` left no object of the split, or would leave none."""
    dropped = [finding for finding in split.findings if finding.outcome == "dropped"]
    bad = dropped or [
        finding for finding in split.findings if finding.box and finding.severity == "error"
    ]
    if not bad or len(split.records.labels):
        return []
    told = "were dropped" if dropped else "are bad, so that dropping them leaves none"
    reason = f"all {len(bad)} boxes {told}; the first: {bad[0]}"
    return [Finding("no_objects", "error", bad[0].file, reason)]


def count_skipped(findings: Iterable[Finding]) -> int:
    """The number of images that were left out because they cannot be used."""
    return sum(finding.outcome == "skipped" for finding in findings)


def describe(split: DataSplit) -> str:
    """One line for the log: the number of images and objects, by class."""
    with_objects = int((split.records.counts > 0).sum())
    labels = Counter(split.records.labels.tolist())
    ignored = int(split.records.ignore.sum())
    outcomes = Counter(finding.outcome for finding in split.findings if finding.box)
    del outcomes[""]
    left_out = f", difficult left out {split.left_out}" if split.left_out else ""
    per_class = ", ".join(f"{name} {labels[label]}" for label, name in enumerate(split.classes))
    boxes = "".join(f", boxes {outcome} {count}" for outcome, count in sorted(outcomes.items()))
    return (
        f"images: {len(split.records)} (with objects {with_objects}, "
        f"empty {len(split.records) - with_objects}, skipped {count_skipped(split.findings)}), "
        f"objects: {labels.total()} ({per_class}), of these ignored {ignored}{left_out}{boxes}"
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


def _row(
    image: RawImage, kept: Sequence[tuple[RawBox, RawObject]], labels: dict[str, int]
) -> RecordRow:
    return RecordRow(
        image.image_id,
        image.path,
        image.size,
        np.array([box for box, _ in kept], np.float32).reshape(-1, 4),
        np.array([labels[obj.name] for _, obj in kept], np.int32),
        np.array([obj.ignore for _, obj in kept], np.bool_),
        np.array([math.nan if obj.area is None else obj.area for _, obj in kept], np.float64),
    )
