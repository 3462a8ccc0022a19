"""YOLO text folders: reading, writing and splitting.

Each line of a label file is an object: ``class cx cy w h``, all but the class as fractions of the
image's width or height. Class names are in ``data.yaml`` or ``classes.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...detection.errors import ConfigError, first_few
from ..bad_boxes import is_rounding
from ..findings import Fault, Finding
from ..records import RawImage, RawObject
from . import yolo_layout, yolo_names, yolo_text
from .file_source import outlines_note
from .format import Contents, Format, Inspected, Reading, SplitSource, checked_size
from .image_names import ImageFiles
from .values import Values
from .writing import ROUNDED, Fit, Place, Splits, Writer, fit_box, write_new


class YoloSource(SplitSource):
    """A folder of images with label files, laid out as in `yolo_layout`; ``split`` null takes all
    images."""

    format: Literal["yolo"] = "yolo"
    #: The class names by number, for a folder without a file of names.
    names: tuple[str, ...] | None = None

    @property
    def folder(self) -> Path:
        """The folder of the data: ``root``, or one below it where only that is laid out so."""
        return yolo_layout.home(self.root)


def inspect_yolo(source: YoloSource, reading: Reading) -> Inspected:
    """The usable images of a split, ordered by name, and all findings.

    An id is the path below the split's folder without its suffix. An image without a label file
    has no objects, as the format says; a warning counts them. Sizes come from the images' headers.
    Polygons and oriented boxes become the boxes around them, which a note counts; lines of
    keypoints and of predictions with scores, which have other columns, are errors.
    """
    root = source.folder
    try:
        names: Mapping[int, str] | None
        names, findings = yolo_names.read_names(root, source.names)
    except Fault as fault:
        names, findings = None, [fault.finding]
    try:
        place = yolo_layout.find_place(root, source.split)
        files = yolo_layout.image_paths(place.images, needed=not place.image_list)
        texts = yolo_layout.label_paths(place.labels)
        texts, notes = yolo_layout.pair_by_name(texts, files, place.images)
        findings += notes
        if place.image_list:
            resolve, inside = ImageFiles(place.images, allow_outside=reading.allow_outside), files
            files, faults = yolo_layout.listed_images(place.image_list, resolve, files)
            findings += faults
            texts |= yolo_layout.labels_outside(files, place.images, texts, inside)
            texts = {name: texts[name] for name in files if name in texts}
    except Fault as fault:
        return [], [*findings, fault.finding]
    findings += _unpaired(files, texts, place.images)
    findings += _unused_splits(source)
    found, outlines, values = [], 0, Values(texts=True)
    for image_id, paths in files.items():
        path, text = paths[0], texts.get(image_id)
        try:
            size = checked_size(path, None, path, reading.rules)
            objects, faults, count = (
                ([], [], 0)
                if text is None or names is None
                else yolo_text.read_labels(text, size, names, values)
            )
        except Fault as fault:
            findings.append(fault.finding)
            continue
        if len(paths) == 1:
            found.append(RawImage(image_id, path, size, tuple(objects), text or path))
            findings += [replace(finding, image=path) for finding in faults]
            outlines += count
    return found, [*findings, *outlines_note(root, outlines), *values.notes(root)]


def _unpaired(
    images: Mapping[str, list[Path]], texts: Mapping[str, Path], folder: Path
) -> list[Finding]:
    findings = []
    for name, paths in images.items():
        if len(paths) > 1:
            reason = f"several images: {', '.join(path.name for path in paths)}"
            place = texts.get(name, folder)
            findings.append(Finding("ambiguous_image", "error", place, reason, name, paths[0]))
    for name in sorted(texts.keys() - images.keys()):
        reason = f"labels without an image in {folder}"
        findings.append(Finding("orphan_annotation", "warning", texts[name], reason))
    if without := sorted(images.keys() - texts.keys()):
        reason = (
            f"{len(without)} images without a label file: taken as without objects: "
            + first_few(without)
        )
        findings.append(Finding("unlabelled_image", "warning", folder, reason))
    return findings


def _unused_splits(source: YoloSource) -> list[Finding]:
    """A warning, for a folder read as a whole, if its YAML file names splits that are not in it."""
    root = source.folder
    stated = yolo_names.stated_splits(root) if source.split is None else {}
    if not stated or yolo_layout.splits(root) != {"all": None}:
        return []
    paths = ", ".join(f"{split}: {path}" for split, path in stated.items())
    reason = f"the splits of the YAML file are not here, all images are one set: {paths:.200}"
    return [Finding("missing_split", "warning", root, reason)]


# ---------------------------------------------------------------------------------- writing


def _fit(obj: RawObject, size: tuple[int, int]) -> Fit:
    """YOLO stores no ignored objects, and only boxes inside the image."""
    if obj.ignore:
        return None, "difficult and crowd objects are left out"
    held, loss = fit_box(obj)
    if held is None:
        return None, loss
    height, width = size
    x1, y1, x2, y2 = obj.box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    clipped, _ = fit_box(replace(obj, box=inside))
    if clipped is None:
        return None, "objects outside the image are left out"
    cuts = list(zip(inside, obj.box, (width, height) * 2, strict=True))
    if all(abs(new - old) <= yolo_text.ROUNDING * side for new, old, side in cuts):
        return clipped, ""
    if all(is_rounding(*cut) for cut in cuts):
        return clipped, ROUNDED
    return clipped, "boxes that reach over the edge of the image are clipped"


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``images/<split>``, ``labels/<split>`` with a file for every image, and ``data.yaml``."""
    numbers = {name: index for index, name in enumerate(classes)}
    for split, images in splits.items():
        for image in images:
            place(image.source, out / "images" / split / image.name)
            lines = [
                yolo_text.format_line(obj, numbers[obj.name], image.size) for obj in image.objects
            ]
            label = out / "labels" / split / image.name.with_suffix(".txt")
            write_new(label, "".join(f"{line}\n" for line in lines))
    write_new(out / "data.yaml", yolo_names.format_names(list(splits), classes))


def _splits(root: Path) -> dict[str, YoloSource]:
    found = yolo_layout.splits(yolo_layout.home(root))
    return {name: YoloSource(root=root, split=split) for name, split in found.items()}


def _contents(source: YoloSource, images: Sequence[RawImage]) -> Contents:
    place = yolo_layout.find_place(source.folder, source.split)
    return Contents(place.images)


def _classes(source: YoloSource) -> tuple[str, ...]:
    return tuple(yolo_names.read_names(source.folder, source.names)[0].values())


def _divide(
    source: YoloSource, parts: Mapping[str, Sequence[str]], folder: Path | None
) -> dict[Path, str]:
    """``<part>.txt`` beside ``images``."""
    if source.split is not None:
        raise ConfigError("--split: a yolo folder is divided as a whole")
    root = source.folder
    files = yolo_layout.image_paths(yolo_layout.find_place(root, None).images)
    for part in parts:
        if any(images.is_dir() for images, _ in yolo_layout.folders_of(root, part)):
            raise ConfigError(f"--parts: {part!r} is a folder of images already")
    return {
        root / f"{part}.txt": "".join(
            f"./{files[name][0].relative_to(root).as_posix()}\n" for name in names
        )
        for part, names in parts.items()
    }


FORMAT = Format(
    name="yolo",
    source=YoloSource,
    carries="boxes",
    layout="images with label files",
    recognise=yolo_layout.recognise,
    splits=_splits,
    inspect=inspect_yolo,
    contents=_contents,
    classes=_classes,
    writer=Writer(fit=_fit, write=_write, known_suffixes=True),
    divide=_divide,
)
