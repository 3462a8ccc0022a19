"""The check of a data set: runs all checks and returns one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from ..catalog import DataSplit, OnBadBox, all_dropped, label_images
from ..class_names import similar_names
from ..coordinates import EdgeCounts, count_edges
from ..finding_kinds import SEVERITIES
from ..findings import Fault, Finding
from ..formats import class_order
from ..formats.format import Source
from ..image import DEFAULT_RULES, ImageRules
from ..image_file import is_file
from ..record_columns import RecordRow, Records
from ..records import RawImage, RawObject, with_own_ids
from .duplicates import by_split, find_conflicts, find_duplicates, without
from .examples import Exhibits, choose_exhibits
from .images import ImageFacts, check_images
from .scales import Scales, measure_scales
from .statistics import (
    AnchorFit,
    Anchors,
    ClassCounts,
    Histogram,
    SplitCounts,
    count_classes,
    count_splits,
    fit_anchors,
    image_histograms,
    size_histograms,
)

#: Reads one source and continues after faults: the readable images, and all findings.
Inspection = Callable[[], tuple[list[RawImage], list[Finding]]]
#: What is annotated. With ``class``, each image has one object of its own size; with ``nothing``,
#: only the image files are checked.
Content = Literal["boxes", "class", "nothing"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """Result of a check; ``images_checked`` images were decoded (0: headers only)."""

    title: str
    findings: tuple[Finding, ...]
    splits: tuple[SplitCounts, ...]
    classes: tuple[ClassCounts, ...]
    histograms: tuple[Histogram, ...]
    anchors: AnchorFit | None
    images_checked: int
    seconds: float
    #: Evidence for 0- or 1-based boxes.
    edges: EdgeCounts = field(default_factory=EdgeCounts)
    #: The objects at the scales that were asked for.
    scales: Scales | None = None
    #: For the page alone.
    exhibits: Exhibits = field(default_factory=Exhibits)


@dataclass(frozen=True)
class DataSet:
    """The data set to check: ``splits``, training first, each with one or several sources.

    ``origin`` is the folder or config file; ``folders`` are checks for files that no split uses.
    ``classes`` None: all names that occur, with ``from_training`` only those in training.
    ``anchors`` are compared with the boxes.
    """

    origin: Path
    splits: Mapping[str, Sequence[Inspection]]
    folders: Sequence[Callable[[], list[Finding]]] = ()
    classes: tuple[str, ...] | None = None
    ignore_classes: tuple[str, ...] = ()
    from_training: bool = False
    on_bad_box: OnBadBox = "error"
    rules: ImageRules = DEFAULT_RULES
    anchors: Anchors | None = None
    #: Scales of training to measure the objects at.
    scales: Mapping[str, Anchors] = field(default_factory=dict)
    content: Content = "boxes"
    #: The sources whose class lists hold if ``classes`` is None.
    listing: tuple[Source, ...] = ()
    #: The names that the files of all sources list.
    declared: Callable[[], Collection[str]] = frozenset


@dataclass(frozen=True)
class Effort:
    """Whether to ``decode`` the images, with how many processes, and the cache file."""

    decode: bool = True
    workers: int = 0
    cache: Path | None = None
    progress: Progress = field(default=lambda done, total: None)


def check(data: DataSet, effort: Effort = Effort()) -> Report:
    """Check ``data``. Faults become findings, errors first; none raises."""
    started = time.monotonic()
    images, findings = _read(data.splits)
    if data.content == "class":
        images = {name: list(map(_as_object, part)) for name, part in images.items()}
    findings += [finding for look in data.folders for finding in look()]
    splits = _label(images, data)
    for split in splits.values():
        findings += [*split.findings, *all_dropped(split)]
    findings += _across_splits(images, splits, data)
    checked = 0
    if effort.decode:
        facts = _decode(images, findings, data.rules, effort)
        findings = _join(findings, facts)
        copies = find_duplicates(by_split(images, facts))
        if data.content == "class":
            every = [image for part in images.values() for image in part if image.path in facts]
            classes = {image.path: image.objects[0].name for image in every}
            hashes = {path: facts[path].sha256 for path in classes if facts[path].sha256}
            findings += (conflicts := find_conflicts(hashes, classes))
            copies = without(copies, conflicts)
        findings += copies
        checked = len(facts)
    everything = [image for part in images.values() for image in part]
    report = summarise(str(data.origin), splits, data.anchors, data.origin)
    train = next(iter(splits.values()), DataSplit(Records.of(()), ()))
    if data.content != "boxes":
        report = replace(report, histograms=image_histograms(train.records))
    ordered = _in_order([*findings, *report.findings])
    return replace(
        report,
        findings=ordered,
        images_checked=checked,
        seconds=time.monotonic() - started,
        edges=count_edges(everything),
        scales=measure_scales(train.records, train.classes, data.scales),
        exhibits=choose_exhibits(images, splits, ordered, boxes=data.content == "boxes"),
    )


def summarise(
    title: str, splits: Mapping[str, DataSplit], anchors: Anchors | None, origin: Path
) -> Report:
    """The report of splits that are already read, with their findings and those of the anchors.

    Histograms and anchor fit are computed on the first split, which is training.
    """
    records = next(iter(splits.values())).records if splits else Records.of(())
    fit = fit_anchors(records, anchors) if anchors else None
    findings = [finding for split in splits.values() for finding in split.findings]
    return Report(
        title,
        _in_order([*findings, *_misfit(fit, origin)]),
        count_splits(splits),
        count_classes(splits),
        size_histograms(records, anchors),
        fit,
        images_checked=0,
        seconds=0.0,
    )


def _read(
    splits: Mapping[str, Sequence[Inspection]],
) -> tuple[dict[str, list[RawImage]], list[Finding]]:
    images: dict[str, list[RawImage]] = {name: [] for name in splits}
    findings = []
    for name, inspections in splits.items():
        for inspect in inspections:
            found, faults = inspect()
            images[name] += with_own_ids(found, images[name])
            findings += faults
    return images, findings


def _as_object(image: RawImage) -> RawImage:
    """The image with one object of its class, as large as the image."""
    height, width = image.size
    whole = RawObject(image.image_class or "", (0.0, 0.0, float(width), float(height)))
    return replace(image, objects=(whole,))


def _label(images: Mapping[str, Sequence[RawImage]], data: DataSet) -> dict[str, DataSplit]:
    """The splits with labels from one class list; empty if there are no classes."""
    if data.content == "nothing":
        return {name: _unlabelled(part) for name, part in images.items()}
    parts = list(images.values())
    learned = [image for part in (parts[:1] if data.from_training else parts) for image in part]
    try:
        classes = data.classes or class_order(data.listing, learned, data.ignore_classes)
    except Fault:  # reported by the reader
        classes = class_order((), learned, data.ignore_classes)
    if not classes:
        return {}
    return {
        name: label_images(
            part,
            classes=classes,
            ignore_classes=data.ignore_classes,
            on_bad_box=data.on_bad_box,
            declared=data.declared,
        )
        for name, part in images.items()
    }


def _unlabelled(images: Sequence[RawImage]) -> DataSplit:
    rows = (RecordRow(image.image_id, image.path, image.size) for image in images)
    return DataSplit(Records.of(rows), ())


def _across_splits(
    images: Mapping[str, Sequence[RawImage]], splits: Mapping[str, DataSplit], data: DataSet
) -> list[Finding]:
    if not splits:
        return [Finding("no_objects", "error", data.origin, "no annotated objects found")]
    everything = [image for part in images.values() for image in part]
    findings = similar_names(everything) if data.classes is None else []
    train, split = next(iter(splits.items()))
    labels = split.records.labels
    present, learned = set(labels.tolist()), set(labels[~split.records.ignore].tolist())
    for label, name in enumerate(split.classes):
        if label not in learned:
            what = "only difficult or crowd objects" if label in present else "no object"
            reason = f"{what} in {train!r}; the class cannot be learned"
            findings.append(Finding("absent_class", "warning", data.origin, reason, name))
    for (early, first), (late, second) in combinations(images.items(), 2):
        known = {image.path for image in first}
        findings += [
            Finding(
                "listed_in_two_splits",
                "warning",
                image.source,
                f"listed in {early!r} and in {late!r}",
                f"image {image.image_id}",
                image.path,
            )
            for image in second
            if image.path in known
        ]
    return findings


def _misfit(fit: AnchorFit | None, origin: Path) -> list[Finding]:
    if fit is None or not (reason := fit.misfit):
        return []
    return [Finding("anchors_do_not_fit", "warning", origin, reason)]


def _decode(
    images: Mapping[str, Sequence[RawImage]],
    findings: Sequence[Finding],
    rules: ImageRules,
    effort: Effort,
) -> dict[Path, ImageFacts]:
    """Facts of all images, including those that are in no split because of a fault."""
    paths = dict.fromkeys(image.path for part in images.values() for image in part)
    paths |= dict.fromkeys(each.image for each in findings if each.image is not None)
    facts = check_images(
        [path for path in paths if is_file(path)],
        rules,
        workers=effort.workers,
        cache=effort.cache,
        progress=effort.progress,
    )
    return {each.path: each for each in facts}


def _join(findings: Sequence[Finding], facts: Mapping[Path, ImageFacts]) -> list[Finding]:
    """All findings; those of decoding replace the less exact ones of reading the header."""
    faulty = {
        path
        for path, each in facts.items()
        if any(finding.severity == "error" for finding in each.findings)
    }
    kept = [
        finding
        for finding in findings
        if finding.kind != "unreadable_image" or finding.file not in faulty
    ]
    return kept + [finding for each in facts.values() for finding in each.findings]


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Distinct findings, sorted by severity, kind and file."""

    def rank(finding: Finding) -> tuple[int, str, str]:
        return SEVERITIES.index(finding.severity), finding.kind, str(finding.file)

    return tuple(sorted(dict.fromkeys(findings), key=rank))
