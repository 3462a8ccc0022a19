"""Which images with which classes does a classifier learn from, and which is it tested on?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...detection.errors import ConfigError, DataError
from ...detection.structures import Annotation, Record
from ..catalog import DataSplit
from ..convert.split import Member, same_bytes, stratified_split
from ..findings import Finding, refuse
from ..image import DEFAULT_RULES, ImageRules
from ..records import RawImage, first_few
from .ilsvrc import inspect_ilsvrc
from .image_folder import inspect_image_folder

Layout = Literal["image-folder", "ilsvrc"]
Part = Literal["train", "val"]


@dataclass(frozen=True)
class LabelledSource:
    """Where the images are. ``train`` and ``val`` are folders below ``root``.

    ``val_fraction`` is for sets without validation images: that part of each class's training
    images is held out, the same for the same ``split_seed``; ``val`` is then not used, and
    ``train`` may be "." for class folders in the root itself. Without ``headers`` no image is
    opened before it is needed: a million headers take minutes. Then `Record.size` is (0, 0).
    """

    root: Path
    layout: Layout = "image-folder"
    train: str = "train"
    val: str = "val"
    val_fraction: float | None = None
    split_seed: int = 0
    headers: bool = True

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction: {self.val_fraction:g} is not between 0 and 1")


def labelled_splits(
    source: LabelledSource,
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
    source: LabelledSource,
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


def _images(
    source: LabelledSource, parts: Sequence[Part], rules: ImageRules
) -> dict[Part, list[RawImage]]:
    if source.val_fraction is not None:
        return _held_out(_read(source, source.train, rules), source.val_fraction, source.split_seed)
    folders: dict[Part, str] = {"train": source.train, "val": source.val}
    return {part: _read(source, folders[part], rules) for part in parts}


def _read(source: LabelledSource, folder: str, rules: ImageRules) -> list[RawImage]:
    images, findings = (
        inspect_ilsvrc(source.root, folder, rules=rules, headers=source.headers)
        if source.layout == "ilsvrc"
        else inspect_image_folder(source.root / folder, rules=rules, headers=source.headers)
    )
    refuse(findings, f"{source.root}: {folder}")
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
    source: LabelledSource, part: Part, images: Sequence[RawImage], classes: tuple[str, ...]
) -> DataSplit:
    if not images:
        raise DataError(f"{source.root}: no images in {part!r}")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DataError(f"class list: listed twice: {', '.join(twice)}")
    findings = list(_compare(images, classes, part))
    refuse(findings, f"{source.root}: {part}")
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
