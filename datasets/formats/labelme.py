"""labelme: one JSON file for each image, with rectangles and polygons."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..image_file import is_file
from ..listing import SPLIT_NAMES, files_with_suffix, image_files, is_image_name, subfolders
from ..records import RawBox, RawImage, RawObject
from .file_source import bounding_box, outlines_note, probe, read_json
from .format import Contents, Format, Inspected, Reading, SplitSource, fit_to_image
from .image_names import ImageFiles
from .values import Values
from .writing import Place, Splits, Writer, fit_box, rounded, write_new

#: Files that are looked into to recognise a folder.
_PROBED = 20
#: Labels that labelme's own lists of labels begin with, for what is of no class.
_NO_CLASSES = ("__ignore__", "_background_")
#: Shapes that have an extent in the image.
_OUTLINES = frozenset({"polygon", "circle"})


class LabelmeSource(SplitSource):
    """JSON files below ``root/<split>``, or with ``split`` null below ``root``."""

    format: Literal["labelme"] = "labelme"

    @property
    def folder(self) -> Path:
        return self.root if self.split is None else self.root / self.split


def inspect_labelme(source: LabelmeSource, reading: Reading) -> Inspected:
    """The usable images, ordered by the path of their JSON, and all findings.

    Ids are the paths of the JSON files without extension. Polygons and circles become the boxes
    around them; points and lines are errors. Counted and left out are images without a JSON file,
    images that only have flags, which are labels of the whole image, and shapes of no class.
    """
    folder = source.folder
    if not folder.is_dir():
        reason = "no such folder; `split: null` (without --split) takes all images"
        return [], [Finding("missing_folder", "error", folder, reason)]
    files = ImageFiles(folder, allow_outside=reading.allow_outside)
    images: list[RawImage] = []
    findings: list[Finding] = []
    outlines, values = 0, Values()
    without_class, flagged = Counter[str](), dict[Path, list[str]]()
    for path in sorted(files_with_suffix(folder, ".json")):
        try:
            content = _load(path)
            found, claimed = _image(content, path, files), _size(content, path, values)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        if not content["shapes"] and (flags := _set_flags(content)):
            flagged[found] = flags
            continue
        objects: list[RawObject] = []
        for number, shape in enumerate(content["shapes"], 1):
            if str(shape.get("label")).strip() in _NO_CLASSES:
                without_class[shape["label"].strip()] += 1
                continue
            try:
                objects.append(_object(shape, path, f"shape {number}", values))
                outlines += shape.get("shape_type") in _OUTLINES
            except Fault as fault:
                findings.append(fault.finding)
        image_id = path.relative_to(folder).with_suffix("").as_posix()
        image = RawImage(image_id, found, (0, 0), tuple(objects), path)
        try:
            image, faults = fit_to_image(image, claimed, reading)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        images.append(image)
        findings += faults
    findings += _left_out(folder, without_class, flagged)
    known = {image.path for image in images} | flagged.keys()
    alone = [path for path in image_files(folder) if path not in known]
    if alone and not any(finding.severity == "error" for finding in findings):
        reason = f"{len(alone)} images have no JSON file and are not used, such as {alone[0].name}"
        findings.append(Finding("unlisted_image", "warning", folder, reason))
    if not images and not any(finding.severity == "error" for finding in findings):
        reason = "has no JSON files" + " with shapes" * bool(flagged)
        findings.append(Finding("no_images", "error", folder, reason))
    notes = outlines_note(folder, outlines) + files.notes(folder) + values.notes(folder)
    return images, findings + notes


def _set_flags(content: Mapping[str, Any]) -> list[str]:
    """The labels of the whole image."""
    flags = content.get("flags")
    return [name for name, value in flags.items() if value] if isinstance(flags, dict) else []


def _left_out(
    folder: Path, without_class: Counter[str], flagged: Mapping[Path, list[str]]
) -> list[Finding]:
    """A note about shapes of no class, a warning about images that only have flags."""
    findings = []
    if without_class:
        counts = ", ".join(f"{name!r} {count}" for name, count in without_class.items())
        reason = f"shapes whose labels are no classes in labelme are left out: {counts}"
        findings.append(Finding("no_class_label", "note", folder, reason))
    if flagged:
        path, names = next(iter(flagged.items()))
        reason = (
            f"{len(flagged)} images have flags, labels of the whole image, and no shapes: they are "
            f"not used, such as {path.name} ({first_few(names)}); resdet train-cls learns such "
            "labels from a folder for each class"
        )
        findings.append(Finding("image_labels", "warning", folder, reason))
    return findings


def _load(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise Fault.of("missing_key", path, "`shapes` is missing or not a list of objects")
    return dict(content)


def _image(content: Mapping[str, Any], path: Path, files: ImageFiles) -> Path:
    """The image beside the file of the same name, else the one that ``imagePath`` names."""
    beside = sorted(
        each
        for each in path.parent.glob(f"{_escaped(path.stem)}.*")
        if is_image_name(each.name) and each.stem == path.stem
    )
    stated = str(content.get("imagePath") or path.stem).replace("\\", "/")
    if len(beside) == 1:
        return beside[0]
    if is_file(path.parent / stated) and path.parent / stated in beside:
        return path.parent / stated
    return files.find(stated, path)


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _size(content: Mapping[str, Any], path: Path, values: Values) -> tuple[float, float] | None:
    try:
        return values.size(content.get("imageHeight"), content.get("imageWidth"))
    except ValueError as error:
        raise Fault.of("bad_image", path, str(error)) from None


def _object(shape: Mapping[str, Any], path: Path, where: str, values: Values) -> RawObject:
    name = shape.get("label")
    if not isinstance(name, str) or not name.strip():
        raise Fault.of("unnamed_object", path, "has no label", object=where)
    where, kind = f"{where} ({name.strip()})", shape.get("shape_type", "polygon")
    try:
        points = [
            (values.stated("points", x), values.stated("points", y)) for x, y in shape["points"]
        ]
        box = _corners(str(kind), points)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"points of a {kind} are missing or no numbers"
        raise Fault.of("not_a_number", path, reason, object=where) from error
    if box is None:
        raise Fault.of("malformed_object", path, f"a {kind} has no box", object=where)
    flags = shape.get("flags")
    difficult = isinstance(flags, dict) and flags.get("difficult") is True
    return RawObject(name.strip(), box, difficult, where)


def _corners(kind: str, points: Sequence[tuple[float, float]]) -> RawBox | None:
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    if kind in ("rectangle", "polygon", "mask"):
        return bounding_box(points)
    return None


def _is_labelme(path: Path) -> bool:
    start = probe(path)
    return start.lstrip().startswith("{") and ('"shapes"' in start or '"imagePath"' in start)


def _files(folder: Path) -> list[Path]:
    return list(filter(_is_labelme, islice(files_with_suffix(folder, ".json"), _PROBED)))


def _splits(root: Path) -> dict[str, LabelmeSource]:
    folders = {path.name for path in subfolders(root)}
    named = [name for name in SPLIT_NAMES if name in folders and _files(root / name)]
    return {name: LabelmeSource(root=root, split=name) for name in named} or {
        "all": LabelmeSource(root=root, split=None)
    }


def _recognise(root: Path) -> str:
    found = _files(root)
    return f"{found[0].relative_to(root)} is a file of labelme" if found else ""


# ---------------------------------------------------------------------------------- writing


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """Images in ``<split>``, each with its JSON file beside it."""
    for split, images in splits.items():
        for image in images:
            target = out / split / image.name
            place(image.source, target)
            height, width = image.size
            content: dict[str, Any] = {
                "version": "5.5.0",
                "flags": {},
                "shapes": [shape_of(obj) for obj in image.objects],
                "imagePath": target.name,
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            write_new(target.with_suffix(".json"), text)


def shape_of(obj: RawObject) -> dict[str, Any]:
    """A rectangle; a difficult object has the flag ``difficult``."""
    x1, y1, x2, y2 = map(rounded, obj.box)
    return {
        "label": obj.name,
        "points": [[x1, y1], [x2, y2]],
        "group_id": None,
        "description": "",
        "shape_type": "rectangle",
        "flags": {"difficult": True} if obj.ignore else {},
    }


def _contents(source: LabelmeSource, images: Sequence[RawImage]) -> Contents:
    contents = (_load(image.source) for image in images)
    return Contents(source.folder, Counter(name for each in contents for name in _extras(each)))


def _extras(content: Mapping[str, Any]) -> Iterator[str]:
    """Names of what a `RawImage` does not store: outlines, flags, groups and descriptions."""
    yield from (f"flag {name}" for name in _set_flags(content))
    for shape in content["shapes"]:
        kind = shape.get("shape_type", "polygon")
        yield from [f"shape {kind}"] if kind != "rectangle" else []
        yield from (key for key in ("group_id", "description") if shape.get(key) not in (None, ""))
        yield from (f"flag {name}" for name in _set_flags(shape) if name != "difficult")


FORMAT = Format(
    name="labelme",
    source=LabelmeSource,
    carries="boxes",
    layout="JSON files with shapes",
    recognise=_recognise,
    recognise_file=lambda path: path.suffix.lower() == ".json" and _is_labelme(path),
    splits=_splits,
    inspect=inspect_labelme,
    contents=_contents,
    writer=Writer(fit=fit_box, write=_write, keeps_class_list=False),
)
