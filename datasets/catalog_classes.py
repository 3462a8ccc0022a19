"""Records with one class per image, for classifiers and, with boxes, for localizers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..detection.errors import DataError, first_few
from .catalog import DataSplit, OnBadBox, count_skipped, label_images
from .checks.duplicates import find_conflicts
from .convert.split import Member, same_bytes, stratified_split
from .findings import Finding, refuse
from .formats import inspect
from .formats.format import DEFAULT_READING, Inspected, Part, Reading, Source
from .formats.image_folder import FolderSource
from .image import DEFAULT_RULES, ImageRules
from .record_columns import RecordRow, Records
from .records import RawImage

#: Bytes of the files that are compared before a training; more would delay it.
_MOST_COMPARED = 2**30


def labelled_splits(
    source: Source, *, classes: Sequence[str] | None = None, rules: ImageRules = DEFAULT_RULES
) -> tuple[DataSplit, DataSplit]:
    """The training and the validation images, with labels of one class list.

    ``classes`` None takes those of the training images, sorted. Raises DataError, naming file,
    class and reason, for class folders without images, a class of val that train lacks, a ground
    truth that does not fit the images, and images that cannot be opened.
    """
    parts = _images(source, ("train", "val"), rules)
    names = _classes(parts["train"][0]) if classes is None else tuple(classes)
    splits = {part: _label(source, part, parts[part], names) for part in parts}
    train, val = _with_conflicts(source, splits, parts).values()
    return train, val


def labelled_split(
    source: Source, part: Part, *, classes: Sequence[str] | None, rules: ImageRules = DEFAULT_RULES
) -> DataSplit:
    """One of the two splits of `labelled_splits`, with the labels of ``classes``; None takes those
    of its own images, sorted."""
    images = _images(source, (part,), rules)[part]
    names = _classes(images[0]) if classes is None else tuple(classes)
    split = _label(source, part, images, names)
    if part == "val":
        return split
    return _with_conflicts(source, {part: split}, {part: images})[part]


def localization_split(
    source: Source,
    part: Part,
    *,
    classes: Sequence[str] | None,
    reading: Reading = DEFAULT_READING,
    on_bad_box: OnBadBox = "error",
) -> DataSplit:
    """The images of one part with boxes, all of the class of their image. ``classes`` None takes
    those of the training images, sorted.

    Training images without a box, or whose boxes ``on_bad_box`` drops, are left out, and a
    warning counts them. ILSVRC has boxes for only part of them. Validation images whose boxes it
    drops are skipped.
    Raises DataError, naming file, object and reason, for a validation image without a box for
    the errors of `inspect`, for a class that is not in ``classes``, and for a bad box that
    ``on_bad_box`` does not resolve.
    """
    reading = replace(reading, part=part, boxes=True)
    images, findings = inspect(source, reading)
    title = f"{source.title}: {part}"
    refuse(findings, title)
    _expect_images(source, part, images, findings)
    if classes is None:
        learned = replace(reading, part="train")
        classes = _classes(images if part == "train" else _read(source, learned)[0])
    findings += _other_classes(images, classes, part)
    refuse(findings, title)
    labelled = label_images(images, classes=classes, on_bad_box=on_bad_box)
    labels = _labels(images, labelled.classes)
    records = Records.of(
        row._replace(image_label=labels[row.image_id])
        for row in labelled.records.rows()
        if len(row.labels)
    )
    findings += labelled.findings
    findings += _without_box(source, part, images, records)
    seen = set(records.image_labels.tolist())
    if missing := [name for label, name in enumerate(classes) if label not in seen]:
        kind = "absent_class" if part == "train" else "class_missing_in_split"
        reason = f"no boxes of {len(missing)} classes in {part}: {first_few(missing)}"
        findings.append(Finding(kind, "warning", Path(source.title), reason))
    refuse(findings, f"{title} (on_bad_box: {on_bad_box})")
    return DataSplit(records, labelled.classes, tuple(findings))


def describe_labelled(split: DataSplit) -> str:
    """One line for the log: the numbers of images, of classes, and of images per class."""
    counts = Counter(split.records.image_labels.tolist())
    sizes = [counts[label] for label in range(len(split.classes))]
    skipped = f", skipped {count}" if (count := count_skipped(split.findings)) else ""
    return (
        f"images: {len(split.records)}, classes: {len(split.classes)} "
        f"with {min(sizes)} to {max(sizes)} images each{skipped}"
    )


# ---------------------------------------------------------------------------------- reading


def _images(source: Source, parts: Sequence[Part], rules: ImageRules) -> dict[Part, Inspected]:
    if isinstance(source, FolderSource) and source.val_fraction is not None:
        images, skipped = _read(source, Reading(rules, boxes=False))
        held_out = _held_out(images, source.val_fraction, source.split_seed)
        return {part: (found, skipped) for part, found in held_out.items()}
    return {part: _read(source, Reading(rules, part=part, boxes=False)) for part in parts}


def _read(source: Source, reading: Reading) -> Inspected:
    """The images of a part, and the findings of those that were skipped and of doubtful classes."""
    images, findings = inspect(source, reading)
    refuse(findings, f"{source.title}: {reading.part}")
    return images, [each for each in findings if each.outcome or each.kind == "nested_classes"]


def _held_out(images: list[RawImage], fraction: float, seed: int) -> dict[Part, list[RawImage]]:
    """Copies of one image stay together; training sees every class."""
    groups = same_bytes([image.path for image in images])
    members = [
        Member(image.image_id, frozenset([_class(image)]), group)
        for image, group in zip(images, groups, strict=True)
    ]
    parts = stratified_split(members, {"train": 1 - fraction, "val": fraction}, seed=seed)
    held_out = set(parts["val"])
    return {
        "train": [image for image in images if image.image_id not in held_out],
        "val": [image for image in images if image.image_id in held_out],
    }


def _with_conflicts(
    source: Source, splits: Mapping[Part, DataSplit], parts: Mapping[Part, Inspected]
) -> dict[Part, DataSplit]:
    """The splits with warnings of images that have the same bytes as one of another class.

    Files are compared that share their size with one of another class. Where files are not opened,
    or these have many bytes, nothing is compared, and only `check-data` finds such images.
    """
    images = [image for inspected in parts.values() for image in inspected[0]]
    if not getattr(source, "headers", True):
        return dict(splits)
    groups: dict[int, set[str]] = defaultdict(set)
    sizes = {image.path: image.path.stat().st_size for image in images}
    for image in images:
        groups[sizes[image.path]].add(_class(image))
    alike = {each.path: _class(each) for each in images if len(groups[sizes[each.path]]) > 1}
    if sum(sizes[path] for path in alike) > _MOST_COMPARED:
        return dict(splits)
    contents = dict(zip(alike, same_bytes(list(alike)), strict=True))
    found = {finding.file: finding for finding in find_conflicts(contents, alike)}
    return {
        part: replace(split, findings=(*split.findings, *_of_images(split, found)))
        for part, split in splits.items()
    }


def _of_images(split: DataSplit, found: Mapping[Path, Finding]) -> Iterator[Finding]:
    paths = (row.path for row in split.records.rows()) if found else ()
    return (found[path] for path in paths if path in found)


# ---------------------------------------------------------------------------------- labels


def _class(image: RawImage) -> str:
    if image.image_class is None:
        raise DataError(f"{image.path}: the image has no class")
    return image.image_class


def _classes(images: Sequence[RawImage]) -> tuple[str, ...]:
    return tuple(sorted({_class(image) for image in images}))


def _labels(images: Sequence[RawImage], classes: Sequence[str]) -> dict[str, int]:
    """{image id: label}."""
    labels = {name: label for label, name in enumerate(classes)}
    return {image.image_id: labels[_class(image)] for image in images}


def _label(source: Source, part: Part, inspected: Inspected, classes: tuple[str, ...]) -> DataSplit:
    images, skipped = inspected
    _expect_images(source, part, images, skipped)
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DataError(f"class list: listed twice: {', '.join(twice)}")
    findings = [*skipped, *_other_classes(images, classes, part)]
    refuse(findings, f"{source.title}: {part}")
    seen = {_class(image) for image in images}
    if missing := [name for name in classes if name not in seen]:
        reason = f"no images of {len(missing)} classes: {first_few(missing)}"
        folder = images[0].source.parent
        findings.append(Finding("class_missing_in_split", "warning", folder, reason))
    labels = _labels(images, classes)
    records = Records.of(
        RecordRow(image.image_id, image.path, image.size, image_label=labels[image.image_id])
        for image in images
    )
    return DataSplit(records, classes, tuple(findings))


def _expect_images(
    source: Source, part: Part, images: Sequence[RawImage], findings: Sequence[Finding]
) -> None:
    if not images:
        skipped = [str(finding) for finding in findings if finding.outcome == "skipped"]
        why = f": all {len(skipped)} were skipped: {first_few(skipped, 3)}" if skipped else ""
        raise DataError(f"{source.title}: no images in {part!r}{why}")


def _other_classes(
    images: Sequence[RawImage], classes: Sequence[str], part: Part
) -> Iterator[Finding]:
    """One error for each class that is not in ``classes``, at its first image."""
    counts = Counter(_class(image) for image in images)
    first = {_class(image): image for image in reversed(images)}
    why = "training lacks" if part == "val" else "is not in the class list"
    for name in sorted(counts.keys() - set(classes)):
        image = first[name]
        images_of_it = f"{counts[name]} image{'s' * (counts[name] > 1)} of a class"
        reason = f"{images_of_it} that {why} (first {image.path.name})"
        yield Finding("class_not_in_train", "error", image.source, reason, name, image.path)


def _without_box(
    source: Source, part: Part, images: Sequence[RawImage], records: Records
) -> Iterator[Finding]:
    used = set(records.ids())
    without = [image for image in images if image.image_id not in used]
    place = Path(source.title)
    if part == "val":
        for image in without:
            finding = Finding(
                "image_without_box", "error", image.source, "the image has no box", "", image.path
            )
            if image.objects:  # dropped, or each is an error already
                reason = "all its boxes were dropped"
                finding = replace(finding, severity="warning", reason=reason, outcome="skipped")
            yield finding
    elif without:
        names = first_few([image.image_id for image in without])
        reason = f"{len(without)} of {len(images)} images have no box and are left out: {names}"
        yield Finding("image_without_box", "warning", place, reason)
    if not records:
        yield Finding("no_objects", "error", place, f"no image of {part} has a box")
