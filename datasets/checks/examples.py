"""The images that the page of a check shows: some of each class, and those of findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..catalog import DataSplit
from ..findings import Finding
from ..record_columns import Records
from ..records import RawImage, RawObject

#: Images of classes on a page, and of one class; images of one kind of finding.
MAX_EXAMPLES, MAX_OF_CLASS, MAX_OF_KIND = 48, 4, 12
#: Image sizes in the plot, the most frequent ones; cells of the plot of places on each side.
MAX_SIZES, CELLS = 400, 24


@dataclass(frozen=True)
class ClassExamples:
    """Images with objects of a class; without a name, images of any content."""

    name: str
    label: int
    images: tuple[Path, ...]


@dataclass(frozen=True)
class Exhibits:
    """What a page shows: images of the classes, the ``objects`` of all images that it shows, and
    for training images the number of each size (w, h) and how often each cell of an image, in rows
    from its upper left corner, is covered by a box."""

    classes: tuple[ClassExamples, ...] = ()
    objects: Mapping[Path, tuple[RawObject, ...]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    sizes: tuple[tuple[int, int, int], ...] = ()
    places: tuple[tuple[int, ...], ...] = ()


def choose_exhibits(
    images: Mapping[str, Sequence[RawImage]],
    splits: Mapping[str, DataSplit],
    findings: Iterable[Finding],
    *,
    boxes: bool,
) -> Exhibits:
    """``boxes``: whether the images have boxes to show."""
    split = next(iter(splits.values()), DataSplit(Records.of(()), ()))
    classes = _of_classes(split) if split.classes else _of_any(split.records)
    shown = {path for each in classes for path in each.images}
    shown |= set(images_of(findings))
    everything = [image for part in images.values() for image in part] if boxes else []
    return Exhibits(
        classes,
        {image.path: image.objects for image in everything if image.path in shown},
        {name: label for label, name in enumerate(split.classes)},
        _sizes(split.records),
        _places(split.records) if boxes else (),
    )


def images_of(findings: Iterable[Finding]) -> list[Path]:
    """The images that a page shows for findings, with those that they are copies of."""
    found: dict[str, dict[Path, Finding]] = defaultdict(dict)
    for finding in findings:
        kind = found[f"{finding.severity} {finding.kind}"]
        if finding.image is not None and len(kind) < MAX_OF_KIND:
            kind.setdefault(finding.image, finding)
    shown = [each for kind in found.values() for each in kind.values()]
    return [path for each in shown for path in (each.image, each.original) if path]


def _of_classes(split: DataSplit) -> tuple[ClassExamples, ...]:
    """Images spread over those of each class; of many classes, those with most objects and those
    with fewest."""
    own: dict[int, list[Path]] = defaultdict(list)
    for row in split.records.rows():
        for label in set(row.labels[~row.ignore].tolist()):
            own[label].append(row.path)
    labels = sorted(own, key=lambda label: (-len(own[label]), label))
    if len(labels) > MAX_EXAMPLES:
        labels = [*labels[: MAX_EXAMPLES // 2], *labels[-MAX_EXAMPLES // 2 :]]
    each = max(1, min(MAX_OF_CLASS, MAX_EXAMPLES // max(1, len(labels))))
    taken: set[Path] = set()
    examples = []
    for label in sorted(labels, key=lambda label: (len(own[label]), label)):  # rare ones choose
        free = [path for path in own[label] if path not in taken] or own[label]
        chosen = _spread(free, each)
        taken.update(chosen)
        examples.append(ClassExamples(split.classes[label], label, chosen))
    return tuple(sorted(examples, key=lambda each: each.label))


def _of_any(records: Records) -> tuple[ClassExamples, ...]:
    paths = _spread([row.path for row in records.rows()], MAX_OF_KIND)
    return (ClassExamples("", -1, paths),) if paths else ()


def _spread(paths: Sequence[Path], count: int) -> tuple[Path, ...]:
    """Up to ``count`` of the paths, at equal distances."""
    if len(paths) <= count:
        return tuple(paths)
    return tuple(paths[index * len(paths) // count] for index in range(count))


def _sizes(records: Records) -> tuple[tuple[int, int, int], ...]:
    counts = Counter((width, height) for height, width in records.sizes.tolist())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((width, height, count) for (width, height), count in ranked[:MAX_SIZES])


def _places(records: Records) -> tuple[tuple[int, ...], ...]:
    """A box covers the cells that it overlaps; computed with sums over both axes."""
    steps = np.zeros((CELLS + 1, CELLS + 1), np.int64)
    for row in records.rows():
        boxes = row.boxes[~row.ignore].astype(np.float64)
        height, width = row.size
        if not len(boxes) or not height or not width:
            continue
        shares = boxes / (width, height, width, height) * CELLS
        first = np.clip(np.floor(shares[:, :2]), 0, CELLS - 1).astype(np.int64)
        end = np.clip(np.ceil(shares[:, 2:]), first + 1, CELLS).astype(np.int64)
        for x, y, sign in (
            (first[:, 0], first[:, 1], 1),
            (end[:, 0], first[:, 1], -1),
            (first[:, 0], end[:, 1], -1),
            (end[:, 0], end[:, 1], 1),
        ):
            np.add.at(steps, (y, x), sign)
    grid = steps.cumsum(axis=0).cumsum(axis=1)[:CELLS, :CELLS]
    return tuple(tuple(int(count) for count in row) for row in grid)
