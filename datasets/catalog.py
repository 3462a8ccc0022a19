"""How do annotations become records: names to labels, and which boxes are acceptable?"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..detection.errors import DataError
from ..detection.structures import Annotation, Record
from .raw import RawBox, RawImage, RawObject, first_few

OnBadBox = Literal["error", "drop", "clip", "fix"]

#: A box with at least this part of its area inside the picture is cut to it under every policy.
LEAST_INSIDE = 0.5


@dataclass(frozen=True)
class DataSplit:
    """Records with labels in the order of ``classes``.

    ``problems`` has one line for each box that was dropped, clipped or fixed; its last word says
    which. No picture is ever left out: one without objects is trained on as background.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    problems: tuple[str, ...] = ()


def assemble(
    images: Sequence[RawImage],
    *,
    classes: Sequence[str] | None,
    ignore_classes: Sequence[str] = (),
    on_bad_box: OnBadBox = "error",
) -> DataSplit:
    """Records of the pictures of one or several sources.

    ``classes`` None takes the names that occur, sorted; objects of ``ignore_classes`` are left out
    (not marked ``ignore``). A box at least half inside its picture is clipped to it and counted.
    Other bad boxes are an error, or: ``drop`` leaves them out, ``clip`` cuts those partly outside,
    ``fix`` swaps swapped corners; what ``clip`` and ``fix`` cannot mend stays an error.

    Raises `DataError` for unknown names, ids used twice (also across sources) and bad boxes, each
    with the count and the first few.
    """
    _expect_unique_ids(images)
    names = _class_list(images, classes, ignore_classes)
    _expect_known_names(images, {*names, *ignore_classes}, names)
    labels = {name: label for label, name in enumerate(names)}
    records, problems, errors = [], [], []
    for image in images:
        kept: list[tuple[RawBox, RawObject]] = []
        for where, obj, box in _labelled_objects(image, labels):
            verdict = _judge(box, image.size, on_bad_box)
            if verdict.reason:
                line = f"{where}: {verdict.reason}"
                if verdict.outcome == "error":
                    errors.append(line)
                else:
                    problems.append(f"{line}: {verdict.outcome}")
            if verdict.box:
                kept.append((verdict.box, obj))
        records.append(Record(image.image_id, image.path, image.size, _annotation(kept, labels)))
    if errors:
        raise DataError(f"{len(errors)} bad boxes (on_bad_box: {on_bad_box}): {first_few(errors)}")
    return DataSplit(tuple(records), names, tuple(problems))


def describe(split: DataSplit) -> str:
    """One line for the banner: how many pictures and objects, of which classes."""
    with_objects = sum(len(record.annotation) > 0 for record in split.records)
    labels = Counter(
        label for record in split.records for label in record.annotation.labels.tolist()
    )
    ignored = sum(int(record.annotation.ignore.sum()) for record in split.records)
    outcomes = Counter(line.rsplit(maxsplit=1)[-1] for line in split.problems)
    per_class = ", ".join(f"{name} {labels[label]}" for label, name in enumerate(split.classes))
    boxes = "".join(f", boxes {outcome} {count}" for outcome, count in sorted(outcomes.items()))
    return (
        f"images: {len(split.records)} (with objects {with_objects}, "
        f"empty {len(split.records) - with_objects}, dropped 0), "
        f"objects: {labels.total()} ({per_class}), of these ignored {ignored}{boxes}"
    )


# ---------------------------------------------------------------------------------- names


def _expect_unique_ids(images: Sequence[RawImage]) -> None:
    """An id names one picture in results and metrics, and a picture listed twice counts twice."""
    first: dict[str, RawImage] = {}
    twice = []
    for image in images:
        other = first.setdefault(image.image_id, image)
        if other is not image:
            twice.append(f"{image.image_id!r} is {other.path} and {image.path}")
    if twice:
        raise DataError(f"{len(twice)} image ids are used twice: {first_few(twice)}")


def _class_list(
    images: Sequence[RawImage], classes: Sequence[str] | None, ignore_classes: Sequence[str]
) -> tuple[str, ...]:
    if classes is None:
        seen = {obj.name for image in images for obj in image.objects}
        names = tuple(sorted(seen - set(ignore_classes)))
    else:
        names = tuple(classes)
    if not names:
        raise DataError("no classes: the annotations have no objects and no class list is given")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"class list: listed twice: {', '.join(twice)}")
    both = sorted(set(names) & set(ignore_classes))
    if both:
        raise DataError(f"both in classes and ignore_classes: {', '.join(both)}")
    return names


def _expect_known_names(
    images: Sequence[RawImage], known: set[str], classes: tuple[str, ...]
) -> None:
    counts: Counter[str] = Counter()
    first: dict[str, RawImage] = {}
    for image in images:
        for obj in image.objects:
            if obj.name not in known:
                counts[obj.name] += 1
                first.setdefault(obj.name, image)
    if counts:
        lines = [
            f"{name!r} x{count} (first in {first[name].source}, {first[name].path.name})"
            f"{_suggestion(name, classes)}"
            for name, count in counts.most_common()
        ]
        raise DataError(
            f"{len(lines)} names in the annotations are not in the class list: {first_few(lines)}"
        )


def _suggestion(name: str, classes: tuple[str, ...]) -> str:
    """The nearest class, letter case, spaces and punctuation aside."""
    plain = {_plain(known): known for known in classes}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return f": did you mean {plain[near[0]]!r}?" if near else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


# ---------------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class _Verdict:
    """The box to use (None: leave the object out), and what is said about it."""

    box: RawBox | None
    reason: str = ""
    outcome: Literal["", "error", "dropped", "clipped", "fixed"] = ""


def _labelled_objects(
    image: RawImage, labels: dict[str, int]
) -> list[tuple[str, RawObject, RawBox]]:
    """(where, object, box) of the objects with a label; boxes rounded to float32, as in records."""
    if not image.objects:
        return []
    with np.errstate(over="ignore"):  # 1e39 becomes inf, which is then refused
        rounded = np.array([obj.box for obj in image.objects], np.float64).astype(np.float32)
    place = f"{image.source}: {image.path.name}"
    return [
        (f"{place}: object {number} ({obj.name}): box {_show(obj.box)}", obj, _as_box(box))
        for number, (obj, box) in enumerate(zip(image.objects, rounded.tolist(), strict=True), 1)
        if obj.name in labels
    ]


def _as_box(values: list[float]) -> RawBox:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _show(box: RawBox) -> str:
    return f"({', '.join(f'{side:g}' for side in box)})"


def _judge(box: RawBox, size: tuple[int, int], policy: OnBadBox) -> _Verdict:
    bad: Literal["error", "dropped"] = "dropped" if policy == "drop" else "error"
    if not all(map(math.isfinite, box)):
        return _Verdict(None, "missing or non-finite coordinates", bad)
    x1, y1, x2, y2 = box
    if x1 == x2 or y1 == y2:
        return _Verdict(None, "no area", bad)
    if x2 < x1 or y2 < y1:
        if policy != "fix":
            return _Verdict(None, "swapped corners", bad)
        ordered = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        inside = _judge(ordered, size, policy)
        reason = " and ".join(filter(None, ("swapped corners", inside.reason)))
        return _Verdict(inside.box, reason, inside.outcome if inside.box is None else "fixed")
    return _judge_outside(box, size, policy, bad)


def _judge_outside(
    box: RawBox, size: tuple[int, int], policy: OnBadBox, bad: Literal["error", "dropped"]
) -> _Verdict:
    (height, width), (x1, y1, x2, y2) = size, box
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if cut == box:
        return _Verdict(box)
    cut_width, cut_height = cut[2] - cut[0], cut[3] - cut[1]
    if cut_width <= 0 or cut_height <= 0:
        return _Verdict(None, f"outside the {width}x{height} picture", bad)
    inside = cut_width / (x2 - x1) * (cut_height / (y2 - y1))
    reason = f"{inside:.1%} inside the {width}x{height} picture"
    if inside >= LEAST_INSIDE or policy == "clip":
        return _Verdict(cut, reason, "clipped")
    return _Verdict(None, reason, bad)


def _annotation(kept: Sequence[tuple[RawBox, RawObject]], labels: dict[str, int]) -> Annotation:
    return Annotation(
        torch.tensor([box for box, _ in kept], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[obj.name] for _, obj in kept], dtype=torch.int64),
        torch.tensor([obj.ignore for _, obj in kept], dtype=torch.bool),
    )
