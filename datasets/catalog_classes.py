"""Records with one class an image: the training and the validation images of a classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..detection.errors import DataError
from ..detection.structures import Annotation, Record
from .catalog import DataSplit
from .convert.split import Member, same_bytes, stratified_split
from .findings import Finding, refuse
from .formats import inspect
from .formats.format import Part, Reading, Source
from .formats.image_folder import FolderSource
from .image import DEFAULT_RULES, ImageRules
from .records import RawImage, first_few


def labelled_splits(
    source: Source,
    *,
    classes: Sequence[str] | None = None,
    rules: ImageRules = DEFAULT_RULES,
) -> tuple[DataSplit, DataSplit]:
    """The training and the validation images, with labels of one class list.

    ``classes`` None takes those of the training images, sorted. Raises DataError, naming file,
    class and reason, for whatever would make a result wrong: class folders without images, a
    class of val that train lacks, a ground truth that does not fit the images, images that
    cannot be opened.
    """
    parts = _images(source, ("train", "val"), rules)
    train, val = parts["train"], parts["val"]
    names = tuple(sorted({_class(image) for image in train}) if classes is None else classes)
    return _split(source, "train", train, names), _split(source, "val", val, names)


def labelled_split(
    source: Source,
    part: Part,
    *,
    classes: Sequence[str],
    rules: ImageRules = DEFAULT_RULES,
) -> DataSplit:
    """One of the two, with the labels of ``classes``, for testing; raises as `labelled_splits`."""
    return _split(source, part, _images(source, (part,), rules)[part], tuple(classes))


def describe_labelled(split: DataSplit) -> str:
    """One line for the banner: how many images, and how many the classes have."""
    counts = Counter(record.image_label for record in split.records)
    sizes = [counts[label] for label in range(len(split.classes))]
    return (
        f"images: {len(split.records)}, classes: {len(split.classes)} "
        f"with {min(sizes)} to {max(sizes)} images each"
    )


def _images(source: Source, parts: Sequence[Part], rules: ImageRules) -> dict[Part, list[RawImage]]:
    if isinstance(source, FolderSource) and source.val_fraction is not None:
        images = _read(source, "train", rules)
        return _held_out(images, source.val_fraction, source.split_seed)
    return {part: _read(source, part, rules) for part in parts}


def _read(source: Source, part: Part, rules: ImageRules) -> list[RawImage]:
    images, findings = inspect(source, Reading(rules, part=part))
    refuse(findings, f"{source.title}: {part}")
    return images


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


def _class(image: RawImage) -> str:
    if image.image_class is None:
        raise DataError(f"{image.path}: the image has no class")
    return image.image_class


def _split(
    source: Source, part: Part, images: Sequence[RawImage], classes: tuple[str, ...]
) -> DataSplit:
    if not images:
        raise DataError(f"{source.title}: no images in {part!r}")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DataError(f"class list: listed twice: {', '.join(twice)}")
    findings = list(_compare(images, classes, part))
    refuse(findings, f"{source.title}: {part}")
    labels = {name: label for label, name in enumerate(classes)}
    empty = Annotation.empty()  # one for all: a million would be gigabytes
    records = tuple(
        Record(image.image_id, image.path, image.size, empty, labels[_class(image)])
        for image in images
    )
    return DataSplit(records, classes, tuple(findings))


def _compare(images: Sequence[RawImage], classes: tuple[str, ...], part: Part) -> Iterable[Finding]:
    known, counts = set(classes), Counter(_class(image) for image in images)
    first = {_class(image): image for image in reversed(images)}
    other = "training lacks" if part == "val" else "is not in the class list"
    for name in sorted(counts.keys() - known):
        image = first[name]
        reason = f"{counts[name]} images of a class that {other} (first {image.path.name})"
        yield Finding("class_not_in_train", "error", image.source, reason, name)
    if missing := [name for name in classes if name not in counts]:
        reason = f"no images of {len(missing)} classes: {first_few(missing)}"
        yield Finding("class_missing_in_split", "warning", images[0].source.parent, reason)
