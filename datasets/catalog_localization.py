"""Records with one class an image and its boxes: the images of a localizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..detection.errors import ConfigError
from ..detection.structures import Record
from .catalog import DataSplit, OnBadBox, label_images
from .findings import Finding, refuse
from .formats.cls_loc import ClsLocSource, inspect_cls_loc, list_path
from .formats.cls_loc_files import read_list
from .formats.format import Part, Reading, Source
from .formats.ilsvrc import class_names
from .image import DEFAULT_RULES, ImageRules
from .records import RawImage, first_few


def localization_split(
    source: Source,
    split: Part,
    *,
    classes: Sequence[str] | None,
    rules: ImageRules = DEFAULT_RULES,
    on_bad_box: OnBadBox = "error",
) -> DataSplit:
    """The images of a split of ILSVRC CLS-LOC, all with boxes, all of the image's class.

    ``classes`` are wnids (`class_names` has their names); None takes those of
    ``LOC_synset_mapping.txt`` that the list of training images has, sorted.

    An image without a box is an error, but for the training images that ``train_cls.txt`` lists:
    ILSVRC has boxes for only part of these. The others, and training images whose boxes
    ``on_bad_box`` drops, cannot teach where the object is. They are left out, and a warning counts
    them. Raises DataError, naming file, object and reason, for this and all else that would make a
    result wrong: what `inspect_cls_loc` calls an error, a class that is not in ``classes``, and a
    box that ``on_bad_box`` does not settle.
    """
    if not isinstance(source, ClsLocSource):
        raise ConfigError(f"{source.title}: localizers are trained on cls_loc only")
    root = source.root
    images, findings = inspect_cls_loc(source, Reading(rules, part=split))
    refuse(findings, f"{root}: {split}")
    names = _training_classes(root) if classes is None else tuple(classes)
    findings += _strangers(images, names, split)
    refuse(findings, f"{root}: {split}")
    labelled = label_images(images, classes=names, on_bad_box=on_bad_box)
    labels = {name: label for label, name in enumerate(names)}
    classes_of = {image.image_id: image.image_class or "" for image in images}
    records = [
        replace(record, image_label=labels[classes_of[record.image_id]])
        for record in labelled.records
        if len(record.annotation)
    ]
    findings += labelled.findings
    findings += _without_box(root, split, images, records)
    findings += _absent(root, split, names, records)
    refuse(findings, f"{root}: {split} (on_bad_box: {on_bad_box})")
    return DataSplit(tuple(records), names, tuple(findings))


def _training_classes(root: Path) -> tuple[str, ...]:
    path = list_path(root, "train")
    ids, findings = read_list(path)
    refuse(findings, str(path))
    return tuple(sorted({name.partition("/")[0] for name in ids} & class_names(root).keys()))


def _strangers(
    images: Sequence[RawImage], classes: tuple[str, ...], split: Part
) -> Iterator[Finding]:
    """One error for each class that is not to be learned, at its first image."""
    first = {image.image_class or "": image for image in reversed(images)}
    why = "is not in the class list" if split == "train" else "training lacks"
    for name in sorted(first.keys() - set(classes)):
        image = first[name]
        reason = f"the image's class {why}"
        yield Finding("class_not_in_train", "error", image.source, reason, name, image.path)


def _without_box(
    root: Path, split: Part, images: Sequence[RawImage], records: Sequence[Record]
) -> Iterator[Finding]:
    used = {record.image_id for record in records}
    partial = split == "train" and list_path(root, "train").stem == "train_cls"
    left_out = []
    for image in images:
        if image.image_id in used:
            continue
        if partial or (split == "train" and image.objects):
            left_out.append(image.image_id)
        else:
            reason = "the image has no box"
            yield Finding("image_without_box", "error", image.source, reason, "", image.path)
    if left_out:
        reason = (
            f"{len(left_out)} of {len(images)} images have no box and are left out: "
            f"{first_few(left_out)}"
        )
        yield Finding("image_without_box", "warning", list_path(root, "train"), reason)
    if not records:
        yield Finding("no_objects", "error", root, f"no image of {split} has a box")


def _absent(
    root: Path, split: Part, classes: tuple[str, ...], records: Sequence[Record]
) -> Iterator[Finding]:
    seen = {record.image_label for record in records}
    missing = [name for label, name in enumerate(classes) if label not in seen]
    if missing:
        kind = "absent_class" if split == "train" else "class_missing_in_split"
        reason = f"no boxes of {len(missing)} classes in {split}: {first_few(missing)}"
        yield Finding(kind, "warning", root, reason)
