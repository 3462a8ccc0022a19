"""YOLO text folders: reading, writing and splitting.

Layout: ``images/<split>/**`` with ``labels/<split>/**.txt``, or ``<split>/images`` with
``<split>/labels``; without splits ``images`` and ``labels``, of which ``<split>.txt`` may list
images. Each line is an object: ``class cx cy w h``, all but the class as fractions of the image's
width or height. Class names are in ``data.yaml`` or ``classes.txt``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...detection.errors import ConfigError, first_few
from ..findings import Fault, Finding
from ..image import IMAGE_SUFFIXES
from ..records import RawImage, RawObject
from . import yolo_text
from .format import Contents, Format, Inspected, Reading, SplitSource, checked_size
from .writing import Fit, Place, Splits, Writer, fit_box, write_new


class YoloSource(SplitSource):
    """``root/images/<split>`` and ``root/labels/<split>``, or ``root/<split>/{images,labels}``, or
    the images of ``root/images`` that ``root/<split>.txt`` lists; ``split`` null takes all of
    ``root/images``."""

    format: Literal["yolo"] = "yolo"


def inspect_yolo(source: YoloSource, reading: Reading) -> Inspected:
    """The usable images of a split, ordered by name, and all findings.

    An id is the path below the split's folder without its suffix. An image without a label file
    has no objects, as the format says; a warning counts them. Sizes come from the images' headers.
    Segments, oriented boxes and predictions with scores, which have other columns, are errors.
    """
    try:
        names: Sequence[str] | None = yolo_text.read_names(source.root)
        findings = []
    except Fault as fault:
        names, findings = None, [fault.finding]
    try:
        images, labels = _folders(source)
        files = _by_stem(images)
        texts = {_stem(path, labels): path for path in sorted(labels.rglob("*.txt"))}
        if "classes" not in files:  # labelling tools leave their list of names here
            texts.pop("classes", None)
        if _is_listed(source):
            files, faults = _listed(_list_path(source), files)
            findings += faults
            texts = {name: texts[name] for name in files if name in texts}
    except Fault as fault:
        return [], [*findings, fault.finding]
    findings += _unpaired(files, texts, images)
    found = []
    for image_id, paths in files.items():
        path, text = paths[0], texts.get(image_id)
        try:
            size = checked_size(path, None, path, reading.rules)
            objects, faults = (
                ([], [])
                if text is None or names is None
                else yolo_text.read_labels(text, size, names)
            )
        except Fault as fault:
            findings.append(fault.finding)
            continue
        if len(paths) == 1:
            found.append(RawImage(image_id, path, size, tuple(objects), text or path))
            findings += [replace(finding, image=path) for finding in faults]
    return found, findings


def _folders(source: YoloSource) -> tuple[Path, Path]:
    """The folders of the images and of the label files of a split; raises `Fault`."""
    layouts = _layouts(source.root, source.split)
    if source.split is None or _is_listed(source):
        layouts = [(source.root / "images", source.root / "labels")]
    for images, labels in layouts:
        if images.is_dir():
            if not labels.is_dir():
                raise Fault.of("missing_folder", labels, f"no such folder, beside {images}")
            return images, labels
    tried = " and ".join(str(images) for images, _ in layouts)
    reason = f"no images of the split {source.split!r}: tried {tried}"
    raise Fault.of("missing_folder", source.root, reason)


def _layouts(root: Path, split: str | None) -> list[tuple[Path, Path]]:
    """The possible (images, labels) folders of a split."""
    folders = [
        (root / kind / str(split), root / str(split) / kind) for kind in ("images", "labels")
    ]
    return list(zip(*folders, strict=True))


def _list_path(source: YoloSource) -> Path:
    return source.root / f"{source.split}.txt"


def _is_listed(source: YoloSource) -> bool:
    """Folders of the split have priority over a list."""
    folders = _layouts(source.root, source.split)
    return _list_path(source).is_file() and not any(images.is_dir() for images, _ in folders)


def _listed(
    path: Path, files: Mapping[str, list[Path]]
) -> tuple[dict[str, list[Path]], list[Finding]]:
    """The ``files`` in a list, and findings; its lines are paths such as ``./images/a.jpg``."""
    known = {found: name for name, paths in files.items() for found in paths}
    wanted: dict[str, list[Path]] = {}
    findings = []
    for line in yolo_text.read_lines(path):
        image = path.parent / line
        if image not in known:
            findings.append(Finding("missing_image", "error", path, "no such image", line))
        elif known[image] in wanted:
            findings.append(Finding("listed_twice", "error", path, "is listed twice", line))
        else:
            wanted[known[image]] = [image]
    if not wanted and not findings:
        findings.append(Finding("empty_image_set", "error", path, "lists no images"))
    return dict(sorted(wanted.items())), findings


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
    cuts = zip(inside, obj.box, (width, height) * 2, strict=True)
    if any(abs(new - old) > yolo_text.ROUNDING * side for new, old, side in cuts):
        return clipped, "boxes that reach over the edge of the image are clipped"
    return clipped, ""


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
    write_new(out / "data.yaml", yolo_text.format_names(list(splits), classes))


def _splits(root: Path) -> dict[str, YoloSource]:
    pairs = [*root.glob("images/*"), *root.glob("*/images")]
    names = [path.name if path.parent.name == "images" else path.parent.name for path in pairs]
    lists = [path.stem for path in root.glob("*.txt") if yolo_text.is_image_list(path)]
    found = [
        each for name in {*names, *lists} if _is_split(each := YoloSource(root=root, split=name))
    ]
    whole = YoloSource(root=root, split=None)
    if not found:
        return {"all": whole} if _is_split(whole) else {}
    order = sorted(found, key=lambda each: (not str(each.split).startswith("train"), each.split))
    return {str(each.split): each for each in order}


def _is_split(source: YoloSource) -> bool:
    try:
        _folders(source)
    except Fault:
        return False
    return True


def _contents(source: YoloSource, images: Sequence[RawImage]) -> Contents:
    return Contents(_folders(source)[0], yolo_text.read_names(source.root))


def _divide(
    source: YoloSource, parts: Mapping[str, Sequence[str]], folder: Path | None
) -> dict[Path, str]:
    """``<part>.txt`` beside ``images``."""
    if source.split is not None:
        raise ConfigError("--split: a yolo folder is divided as a whole")
    files = _by_stem(_folders(source)[0])
    for part in parts:
        if any(images.is_dir() for images, _ in _layouts(source.root, part)):
            raise ConfigError(f"--parts: {part!r} is a folder of images already")
    return {
        source.root / f"{part}.txt": "".join(
            f"./{files[name][0].relative_to(source.root).as_posix()}\n" for name in names
        )
        for part, names in parts.items()
    }


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
    divide=_divide,
)
