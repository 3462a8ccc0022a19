"""COCO: reading, writing and splitting of image folders with instances JSONs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ...detection.errors import ConfigError, first_few
from ..coordinates import check_coordinates
from ..findings import Fault, Finding
from ..listing import image_files
from ..records import RawImage
from . import coco_json, coco_layout, coco_writing
from .format import Contents, Format, Inspected, Reading, Source, fit_all
from .image_names import ImageFiles
from .values import Values, key_of
from .writing import Place, Splits, Writer, fit_box, write_new


class CocoSource(Source):
    """A folder of images, below which ``file_name`` entries are resolved, and a COCO JSON."""

    format: Literal["coco"] = "coco"
    #: The folder of the images.
    images: Path
    #: The JSON file.
    annotations: Path
    #: False: images to test on, whose objects are not known, such as ``image_info_test-dev2017``;
    #: any ``annotations`` of the file are not read.
    annotated: bool = True

    @property
    def title(self) -> str:
        return str(self.annotations)


def inspect_coco(source: CocoSource, reading: Reading) -> Inspected:
    """The usable images of a COCO JSON, in its order, and all findings.

    Images without objects are included. Crowds become ``ignore``; a missing ``iscrowd`` is 0;
    annotation ids only name objects in messages. Without a box, that of the polygons or mask is
    taken; without these, it is non-finite, which the catalog reports. Sizes come from the images'
    headers and are compared with the JSON's.
    """
    annotations = source.annotations
    state = _state(source)
    try:
        content = coco_json.load_json(annotations, annotated=source.annotated, outlines=False)
    except Fault as fault:
        return [], [fault.finding]
    values = Values()
    findings = coco_json.pycocotools_notes(content["annotations"], annotations)
    names = coco_json.category_names(content["categories"], annotations, findings, values)
    if group := coco_json.group_category(content):
        reason = f"{group!r} has no objects and is the supercategory of all others: it is no class"
        findings.append(Finding("group_category", "note", annotations, reason))
    if state is not None:
        _CLASSES[state] = tuple(name for name in names.values() if name != group)
    entries = coco_json.images_by_id(content["images"], annotations, findings, values)
    paths = {key: source.images / str(entry.get("file_name")) for key, entry in entries.items()}
    findings += coco_json.listed_twice(paths, annotations)
    objects = coco_json.objects_by_image(
        content["annotations"], paths, names, annotations, findings, values
    )
    listed, files = [], ImageFiles(source.images, allow_outside=reading.allow_outside)
    for image_id, entry in entries.items():
        where = f"image {image_id}"
        try:
            path = files.find(coco_json.file_name(entry, annotations, where), annotations, where)
            claimed = coco_json.claimed_size(entry, annotations, where, values)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        image = RawImage(image_id, path, (0, 0), tuple(objects.pop(image_id)), annotations)
        listed.append((image, claimed, where))
    found, faults = fit_all(listed, reading)
    findings += faults
    findings += files.notes(annotations) + values.notes(annotations)
    return found, findings + check_coordinates(found, "zero_based")


def inspect_folders(sources: Sequence[CocoSource]) -> list[Finding]:
    """Findings: categories that differ between the files, and images that are in no file."""
    by_folder: dict[Path, list[Path]] = {}
    for source in sources:
        by_folder.setdefault(source.images, []).append(source.annotations)
    findings = compare_categories([source.annotations for source in sources])
    return findings + [
        finding for folder, files in by_folder.items() for finding in _unlisted(folder, files)
    ]


def compare_categories(paths: Sequence[Path]) -> list[Finding]:
    """Findings: ids of different classes in several files. Labels go by name, but results and
    weights made with such ids are permuted. Unreadable files are reported by `inspect_coco`."""
    first: dict[str, tuple[str, Path]] = {}
    findings = []
    for path in dict.fromkeys(paths):
        try:
            categories = coco_json.load_json(path, outlines=False)["categories"]
            names = coco_json.category_names(categories, path, [], Values())
        except Fault:
            continue
        for key, name in names.items():
            other, file = first.setdefault(key, (name, path))
            if other != name:
                reason = f"is {name!r} here and {other!r} in {file}"
                where = f"category {key}"
                findings.append(Finding("permuted_classes", "warning", path, reason, where))
    return findings


def _unlisted(images: Path, annotations: Sequence[Path]) -> list[Finding]:
    """One note if images below ``images`` are in none of the files."""
    listed: set[Path] = set()
    names = ImageFiles(images)
    for path in annotations:
        try:
            entries = coco_json.load_json(path, outlines=False)["images"]
        except Fault:
            return []  # reported by `inspect_coco`; every image would seem unlisted
        for entry in entries:
            with suppress(Fault):
                listed.add(names.find(coco_json.file_name(entry, path, ""), path))
    unlisted = (path for path in image_files(images) if path not in listed)
    alone = [path.relative_to(images).as_posix() for path in unlisted]
    if not alone:
        return []
    reason = f"{len(alone)} images are in no annotation file: {first_few(alone)}"
    return [Finding("unlisted_image", "note", images, reason)]


def _splits(root: Path) -> dict[str, CocoSource]:
    return {
        split: CocoSource(images=coco_layout.image_folder(path, root, split), annotations=path)
        for split, path in coco_layout.annotation_files(root).items()
    }


def _named(root: Path, split: str | None, annotations: Path | None) -> CocoSource:
    if annotations is not None:
        images = coco_layout.image_folder(annotations, root, str(split))
        return CocoSource(images=images, annotations=annotations)
    splits = _splits(root) if root.is_dir() else {}
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    published = root / f"annotations/instances_{split}.json"
    return splits.get(str(split)) or CocoSource(images=root / str(split), annotations=published)


def _contents(source: CocoSource, images: Sequence[RawImage]) -> Contents:
    content = coco_json.load_json(source.annotations, annotated=source.annotated)
    return Contents(source.images, Counter(coco_json.extra_keys(content)))


#: {file and its state: its classes} of the files that were read: to read a large one for its
#: classes alone takes as long, and as much memory, as to read it for all.
_CLASSES: dict[object, tuple[str, ...]] = {}


def _state(source: CocoSource) -> object:
    """Another value for each content of the file; None where it cannot be told."""
    try:
        status = source.annotations.stat()
    except (OSError, ValueError):  # which the reader reports
        return None
    changed = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
    return source.annotations.absolute(), source.annotated, *changed


def _classes(source: CocoSource) -> tuple[str, ...]:
    """The categories of the file in its order; raises `Fault`."""
    state = _state(source)
    if state is not None and state in _CLASSES:
        return _CLASSES[state]
    content = coco_json.load_json(source.annotations, annotated=source.annotated, outlines=False)
    names = coco_json.category_names(content["categories"], source.annotations, [], Values())
    group = coco_json.group_category(content)
    return tuple(name for name in names.values() if name != group)


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``annotations/instances_<split>.json``, and the images in ``<split>``."""
    for split, images in splits.items():
        for image in images:
            place(image.source, out / split / image.name)
        content = coco_writing.instances(images, classes)
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write_new(out / "annotations" / f"instances_{split}.json", text + "\n")


def _divide(
    source: CocoSource, parts: Mapping[str, Sequence[str]], folder: Path | None
) -> dict[Path, str]:
    """``<part>.json``, by default beside the source's: its content with the images of the part
    alone. Everything else is kept, ids, masks and unknown keys included."""
    content, whole = coco_json.load_json(source.annotations), source.annotations
    texts = {}
    for part, names in parts.items():
        path = (folder or whole.parent) / f"{part}.json"
        if path.resolve() == whole.resolve():
            raise ConfigError(f"--parts: {part!r} would replace {whole} itself")
        wanted = set(names)
        images = [entry for entry in content["images"] if key_of(entry["id"]) in wanted]
        kept = [each for each in content["annotations"] if key_of(each["image_id"]) in wanted]
        only = {**content, "images": images, "annotations": kept}
        texts[path] = json.dumps(only, ensure_ascii=False) + "\n"
    return texts


FORMAT = Format(
    name="coco",
    source=CocoSource,
    carries="boxes",
    layout="JSON files with images, annotations and categories",
    recognise=coco_layout.recognise,
    splits=_splits,
    named=_named,
    inspect=inspect_coco,
    places=lambda source: (source.images, source.annotations),
    inspect_folder=inspect_folders,
    contents=_contents,
    classes=_classes,
    writer=Writer(
        fit=fit_box,
        write=_write,
        pairs_by_stem=False,
        ignored="difficult objects become crowds (iscrowd 1): ignored as before, but a crowd "
        "excuses any number of detections inside it",
    ),
    divide=_divide,
)
