"""YOLO text folders: reading, writing, and lists of new splits.

Layout: ``images/<split>/**`` with ``labels/<split>/**.txt``, or ``<split>/images`` with
``<split>/labels``; without splits ``images`` and ``labels``, of which ``<split>.txt`` may list
images. One object a line: ``class cx cy w h``, all but the class in parts of the image's width or
height. Class names are in ``data.yaml`` or ``classes.txt``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..findings import Fault, Finding
from ..image import IMAGE_SUFFIXES, ImageRules
from ..records import RawImage, RawObject, first_few
from .format import (
    DEFAULT_READING,
    Contents,
    Fit,
    Format,
    Inspected,
    Outgoing,
    Place,
    Reading,
    Splits,
    SplitSource,
    Writer,
    checked_size,
    fit_box,
    number,
    write_new,
)
from .yolo_names import format_names, read_names, read_text

#: Of a fraction of the image's side: 1e-8 px of a side of 10 000 px, so that the corners that
#: come back, rounded to `PIXEL_DECIMALS`, are those that went in.
FRACTION_DECIMALS = 12
#: Corners may exceed the image by this part of its side without being called clipped: YOLO files
#: usually have six decimals, and a corner is the sum of two.
ROUNDING = 1e-6

_COLUMNS = ("class", "cx", "cy", "w", "h")


class YoloSource(SplitSource):
    """``root/images/<split>`` and ``root/labels/<split>``, or ``root/<split>/{images,labels}``;
    ``split`` null takes all of ``root/images``."""

    format: Literal["yolo"] = "yolo"


def inspect_yolo(source: YoloSource, reading: Reading = DEFAULT_READING) -> Inspected:
    """The usable images of a split, ordered by name, and everything that is wrong with it.

    An id is the path below the split's folder without its suffix. An image without a label file
    has no objects, as the format says; a warning counts them. Sizes come from the images' headers.
    Segments, oriented boxes and predictions with scores have other columns and are refused.
    """
    try:
        names: Sequence[str] | None = read_names(source.root)
        findings = []
    except Fault as fault:
        names, findings = None, [fault.finding]
    try:
        images, labels = split_folders(source.root, source.split)
        files = _by_stem(images)
    except Fault as fault:
        return [], [*findings, fault.finding]
    texts = {_stem(path, labels): path for path in sorted(labels.rglob("*.txt"))}
    if "classes" not in files:  # labelling tools leave their list of names here
        texts.pop("classes", None)
    findings += _unpaired(files, texts, images)
    found = []
    for image_id, paths in files.items():
        if len(paths) > 1:
            continue
        try:
            image, faults = _read_image(
                image_id, paths[0], texts.get(image_id), names, reading.rules
            )
        except Fault as fault:
            findings.append(fault.finding)
            continue
        found.append(image)
        findings += faults
    return found, findings


def split_folders(root: Path, split: str | None) -> tuple[Path, Path]:
    """The folders of the images and of the label files of a split; raises `Fault`."""
    layouts = (
        [
            (root / "images" / split, root / "labels" / split),
            (root / split / "images", root / split / "labels"),
        ]
        if split
        else [(root / "images", root / "labels")]
    )
    for images, labels in layouts:
        if images.is_dir():
            if not labels.is_dir():
                raise Fault.of("missing_folder", labels, f"no such folder, beside {images}")
            return images, labels
    tried = " and ".join(str(images) for images, _ in layouts)
    reason = f"no images of the split {split!r}: tried {tried}"
    raise Fault.of("missing_folder", root, reason)


def _by_stem(images: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            found[_stem(path, images)].append(path)
    if not found:
        raise Fault.of("no_images", images, "has no images")
    return dict(sorted(found.items()))


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


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
        findings.append(Finding("orphan_annotation", "error", texts[name], reason))
    if without := sorted(images.keys() - texts.keys()):
        reason = (
            f"{len(without)} images without a label file: taken as without objects: "
            + first_few(without)
        )
        findings.append(Finding("unlabelled_image", "warning", folder, reason))
    return findings


# ---------------------------------------------------------------------------------- one label file


def _read_image(
    image_id: str, path: Path, text: Path | None, names: Sequence[str] | None, rules: ImageRules
) -> tuple[RawImage, list[Finding]]:
    """Raises `Fault` where the image cannot be used. Without ``names`` no label is read."""
    size = checked_size(path, None, path, rules)
    objects, findings = [], []
    if text and names is not None:
        for line, words in enumerate(read_text(text).split("\n"), 1):
            try:
                if words.strip():
                    objects.append(_object(words.split(), text, f"line {line}", size, names))
            except Fault as fault:
                findings.append(replace(fault.finding, image=path))
    return RawImage(image_id, path, size, tuple(objects), text or path), findings


def _object(
    columns: Sequence[str], path: Path, where: str, size: tuple[int, int], names: Sequence[str]
) -> RawObject:
    if len(columns) != len(_COLUMNS):
        reason = f"{len(columns)} columns, expected 5 ({' '.join(_COLUMNS)})"
        reason += _other_format(len(columns))
        raise Fault.of("malformed_object", path, reason, object=where)
    name = _class_name(columns[0], path, where, names)
    middle_x, middle_y, part_x, part_y = (
        _fraction(text, path, where, column)
        for column, text in zip(_COLUMNS[1:], columns[1:], strict=True)
    )
    height, width = size
    box = (
        (middle_x - part_x / 2) * width,
        (middle_y - part_y / 2) * height,
        (middle_x + part_x / 2) * width,
        (middle_y + part_y / 2) * height,
    )
    return RawObject(name, box, reference=where)


def _other_format(columns: int) -> str:
    """What such a line most likely is."""
    if columns == len(_COLUMNS) + 1:
        return ": a prediction with its score?"
    if columns >= 7 and columns % 2 == 1:
        return ": segments and oriented boxes are not read"
    return ": keypoints are not read" if columns > len(_COLUMNS) else ""


def _class_name(text: str, path: Path, where: str, names: Sequence[str]) -> str:
    if not (text.isascii() and text.isdigit()):
        reason = f"class is {text!r:.40}, expected a whole number"
        raise Fault.of("not_a_number", path, reason, object=where)
    if len(text) > 9 or int(text) >= len(names):
        reason = f"class {text:.40} is outside the {len(names)} names (from 0)"
        raise Fault.of("unknown_category", path, reason, object=where)
    return names[int(text)]


def _fraction(text: str, path: Path, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        reason = f"{column} is {text!r:.40}, expected a number"
        raise Fault.of("not_a_number", path, reason, object=where) from None
    if not math.isfinite(value):
        reason = f"{column} is {text:.40}, not a finite number"
        raise Fault.of("not_a_number", path, reason, object=where)
    if not 0 <= value <= 1:
        reason = f"{column} is {text:.40}, outside 0..1: in pixels?"
        raise Fault.of("not_a_fraction", path, reason, object=where)
    return value


# ---------------------------------------------------------------------------------- writing


def _fit(obj: RawObject, size: tuple[int, int]) -> Fit:
    """YOLO knows no ignored objects, and boxes inside the image only."""
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
    cuts = zip(inside, obj.box, (width, height) * 2, strict=True)
    if any(abs(new - old) > ROUNDING * side for new, old, side in cuts):
        return clipped, "boxes that reach over the edge of the image are clipped"
    return clipped, ""


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``images/<split>``, ``labels/<split>`` with a file for every image, and ``data.yaml``."""
    numbers = {name: index for index, name in enumerate(classes)}
    for split, images in splits.items():
        for image in images:
            place(image.source, out / "images" / split / image.name)
            lines = [_line(obj, numbers[obj.name], image) for obj in image.objects]
            label = out / "labels" / split / image.name.with_suffix(".txt")
            write_new(label, "".join(f"{line}\n" for line in lines))
    write_new(out / "data.yaml", format_names(list(splits), classes))


def _line(obj: RawObject, label: int, image: Outgoing) -> str:
    height, width = image.size
    x1, y1, x2, y2 = obj.box
    fractions = (
        (x1 + x2) / 2 / width,
        (y1 + y2) / 2 / height,
        (x2 - x1) / width,
        (y2 - y1) / height,
    )
    return " ".join([str(label), *(number(part, FRACTION_DECIMALS) for part in fractions)])


# ---------------------------------------------------------------------------------- the format


def _splits(root: Path) -> dict[str, YoloSource]:
    pairs = [*root.glob("images/*"), *root.glob("*/images")]
    names = {path.name if path.parent.name == "images" else path.parent.name for path in pairs}
    found = sorted(names, key=lambda name: (not name.startswith("train"), name))
    splits = [name for name in found if _is_split(root, name)]
    if splits or not _is_split(root, None):
        return {name: YoloSource(root=root, split=name) for name in splits}
    return {"all": YoloSource(root=root, split=None)}


def _is_split(root: Path, split: str | None) -> bool:
    try:
        return all(folder.is_dir() for folder in split_folders(root, split))
    except Fault:
        return False


def _contents(source: YoloSource, images: Sequence[RawImage]) -> Contents:
    return Contents(split_folders(source.root, source.split)[0], read_names(source.root))


FORMAT = Format(
    name="yolo",
    source=YoloSource,
    carries="boxes",
    layout="images and labels",
    recognise=lambda root: bool(_splits(root)),
    splits=_splits,
    inspect=inspect_yolo,
    contents=_contents,
    writer=Writer(fit=_fit, write=_write, known_suffixes=True),
)
