"""What the page of a classifier or localizer shows of its errors: confused pairs of classes, how
far its scores can be relied on, and the worst images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..pages.shots import BUDGET, ImageBudget, Mark, Reader, Shot, apart, class_hex, mark_of
from .error_page import STYLES, case_shot
from .image_records import ImageRecords

#: Images that are shown, at most this many of a class, and their longer side.
EXAMPLES, OF_CLASS, SIDE = 48, 4, 320
#: A table of more classes than this cannot be read.
MATRIX = 30
#: The share of the wrong images from which on a pair of classes is what to look at first.
SPREAD = 0.05
#: The share of the wrong images with one answer from which on a classifier has hardly learned.
ONE_ANSWER = 0.8
#: A box of a lower IoU misses the object.
FAR = 0.1
#: Bins of the scores.
BINS = 10


@dataclass(frozen=True)
class ConfusedPair:
    """``count`` images of the class ``true``, a ``share`` of them, got ``predicted``."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class ScoreBin:
    """``count`` images whose best class has a score from ``low`` to ``high``: the mean of the
    scores and the share of the images for which that class is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True)
class WrongExample:
    """``predicted`` are the first classes with their scores, whether each is the true one; empty
    where the evaluation does not record them. ``anchor`` is what links lead to."""

    shot: Shot
    true: str
    words: str
    predicted: Sequence[tuple[str, float, bool]]
    anchor: str


@dataclass(frozen=True)
class ConfusionTable:
    """``pairs`` are all confusions, the most frequent first. ``matrix`` has the images or objects
    of each true class by predicted class, with their shares of the row; empty for many classes."""

    pairs: Sequence[ConfusedPair]
    matrix: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    classes: Sequence[str]


@dataclass(frozen=True)
class ClassView(ConfusionTable):
    """``gap`` is the expected calibration error: the mean distance of score and share, weighted by
    the images. ``overlaps`` are the IoUs of a localizer's wrong boxes."""

    bins: Sequence[ScoreBin]
    gap: float
    examples: Sequence[WrongExample]
    wrong: int
    overlaps: Sequence[float] = ()

    @property
    def shown(self) -> dict[tuple[str, str], str]:
        """The anchor of the first example of each pair of true and predicted class."""
        first: dict[tuple[str, str], str] = {}
        for each in self.examples:
            if each.predicted:
                first.setdefault((each.true, each.predicted[0][0]), each.anchor)
        return first

    @property
    def advice(self) -> str:
        """What to look at first; "" without confusions."""
        if not self.pairs:
            return self._advice_on_boxes
        worst = self.pairs[0]
        images = Counter[str]()
        for pair in self.pairs:
            images[pair.predicted] += pair.count
        answer, same = images.most_common(1)[0]
        taken = sum(pair.predicted == answer for pair in self.pairs)
        if taken > 2 and same >= ONE_ANSWER * self.wrong:
            return (
                f"{same} of the {self.wrong} images that it gets wrong, of {taken} classes, are "
                f"taken for {answer}. To do: train longer; see whether {answer} has most of the "
                "images"
            )
        if worst.count < SPREAD * self.wrong:
            return (
                f"no pair of classes stands out: the most frequent one accounts for {worst.count} "
                f"of the {self.wrong} errors. To do: see in the curves whether the error still "
                "falls; longer training, pretrained weights or more images help all classes"
            )
        return (
            f"most often confused: {worst.count} images of {worst.true} were taken for "
            f"{worst.predicted}. To do: see whether both are labelled alike; more images help"
        )

    @property
    def _advice_on_boxes(self) -> str:
        if not self.overlaps:
            return ""
        far = sum(each < FAR for each in self.overlaps)
        return (
            f"{far} of {len(self.overlaps)} wrong boxes are far from the object (IoU under {FAR}), "
            "the others near it. To do: look at both below; where they are far, train longer or "
            "with more images; where they are near, see whether all annotated boxes follow one rule"
        )

    @property
    def tendency(self) -> str:
        """Whether the scores are too high or too low; "" without scores."""
        images = sum(each.count for each in self.bins)
        if not images:
            return ""
        excess = sum(each.count * (each.score - each.right) for each in self.bins) / images
        if abs(excess) < 0.02:
            return "scores are on average as high as the share of right answers"
        return f"scores are on average {abs(excess):.2f} too {'high' if excess > 0 else 'low'}"


def class_view(records: ImageRecords, read: Reader) -> ClassView:
    """The view of an evaluation; ``read`` returns the pixels (h, w, 3) RGB of a file."""
    classes, images = records.classes, records.images
    first = [
        (each["label"], each["predicted"]["labels"][0], each["predicted"]["scores"][0])
        for each in images
        if each.get("predicted") and each["predicted"]["labels"]
    ]
    counts = Counter((true, predicted) for true, predicted, _ in first)
    totals = Counter(true for true, *_ in first)
    bins = _bins(first)
    scored = max(1, len(first))
    table = confusion_table(counts, totals, classes)
    return ClassView(
        table.pairs,
        table.matrix,
        classes,
        bins,
        sum(each.count * abs(each.score - each.right) for each in bins) / scored,
        _examples(records, read),
        sum(each["wrong"] > 0 for each in images),
        [iou for each in images if each["wrong"] and (iou := _overlap(each)) is not None],
    )


def confusion_table(
    counts: Mapping[tuple[int, int], int], totals: Mapping[int, int], classes: Sequence[str]
) -> ConfusionTable:
    """Of the ``counts`` by (true, predicted) class; ``totals`` are those of the true classes."""
    readable = bool(counts) and len(classes) <= MATRIX
    return ConfusionTable(
        _pairs(counts, totals, classes),
        _matrix(counts, totals, classes) if readable else (),
        classes,
    )


def _pairs(
    counts: Mapping[tuple[int, int], int], totals: Mapping[int, int], classes: Sequence[str]
) -> list[ConfusedPair]:
    wrong = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1]]
    wrong.sort(key=lambda item: (-item[1], item[0]))
    return [
        ConfusedPair(classes[true], classes[predicted], count, count / totals[true])
        for (true, predicted), count in wrong
    ]


def _matrix(
    counts: Mapping[tuple[int, int], int], totals: Mapping[int, int], classes: Sequence[str]
) -> list[tuple[str, list[tuple[int, float]]]]:
    every = range(len(classes))
    rows = ([counts.get((true, other), 0) for other in every] for true in every)
    return [
        (name, [(count, count / max(1, totals[true])) for count in row])
        for true, (name, row) in enumerate(zip(classes, rows, strict=True))
    ]


def _bins(first: Sequence[tuple[int, int, float]]) -> list[ScoreBin]:
    """Bins without images are left out."""
    if not first:
        return []
    scores = np.array([score for *_, score in first])
    right = np.array([true == predicted for true, predicted, _ in first])
    place = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    return [
        ScoreBin(
            number / BINS,
            (number + 1) / BINS,
            int(own.sum()),
            float(scores[own].mean()),
            float(right[own].mean()),
        )
        for number in range(BINS)
        if (own := place == number).any()
    ]


def _examples(records: ImageRecords, read: Reader) -> list[WrongExample]:
    """The worst images first; among equally wrong ones those with the box that is farthest off, of
    a classifier those with the surest wrong answer."""
    budget, of_class = ImageBudget(BUDGET), Counter[int]()
    wrong = [each for each in records.images if each["wrong"]]
    wrong.sort(key=lambda each: (-each["wrong"], _overlap(each) or 0.0, -_surest(each)))
    examples: list[WrongExample] = []
    for entry in wrong:
        if len(examples) == EXAMPLES:
            break
        if of_class[entry["label"]] < OF_CLASS:
            of_class[entry["label"]] += 1
            examples.append(_example(entry, records.classes, read, budget, len(examples)))
    return examples


def _surest(entry: Mapping[str, Any]) -> float:
    scores = entry.get("predicted", {}).get("scores") or [0.0]
    return float(scores[0])


def _overlap(entry: Mapping[str, Any]) -> float | None:
    """The IoU of a localizer's box of the true class."""
    value: float | None = entry["values"].get("mean_true_class_iou")
    return value


def _example(
    entry: Mapping[str, Any],
    classes: Sequence[str],
    read: Reader,
    budget: ImageBudget,
    number: int,
) -> WrongExample:
    predicted = entry.get("predicted", {"labels": [], "scores": []})
    iou = _overlap(entry)
    shot, scale = case_shot(entry, read, budget, SIDE)
    marks = apart(_marks(entry, classes, shot, scale)) if shot.uri else ()
    return WrongExample(
        replace(shot, marks=marks),
        classes[entry["label"]],
        "" if iou is None else f"box of the true class: {_kind(entry)}IoU {iou:.2f}",
        [
            (classes[label], score, label == entry["label"])
            for label, score in zip(predicted["labels"], predicted["scores"], strict=True)
        ],
        f"wrong{number}",
    )


def _kind(entry: Mapping[str, Any]) -> str:
    """What is wrong with the box of the true class, before its IoU."""
    found = entry.get("true_class", {}).get("kinds")  # not in older files
    return "" if found is None else f"{STYLES[found[0]][0] if found else 'missing'}, "


def _marks(
    entry: Mapping[str, Any], classes: Sequence[str], shot: Shot, scale: float
) -> Iterator[Mark]:
    """The objects of a localizer's image, dashed, the box of its true class, and that of the first
    prediction if it is of another class, in the colours of what is wrong with them."""
    size, own = (shot.height, shot.width), entry["label"]
    for box in entry.get("objects", {}).get("boxes", ()):
        if mark := mark_of(box, scale, size, colour=class_hex(own), name=classes[own]):
            yield replace(mark, style="dashed", labelled=False)
    drawn = False
    for part in ("true_class", "predicted"):
        found = entry.get(part, {})
        if not found.get("boxes") or (drawn and found["labels"][0] == own):
            continue
        drawn = True
        box, label, kind = (found[name][0] for name in ("boxes", "labels", "kinds"))
        words, colour, _ = STYLES[kind]
        name = words if label == own else f"{words}: {classes[label]}"
        if None not in box and (mark := mark_of(box, scale, size, colour=colour, name=name)):
            yield mark
