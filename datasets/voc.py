"""What does a PASCAL VOC folder say about its pictures?

Layout: ``JPEGImages/<id>.*``, ``Annotations/<id>.xml``, ``ImageSets/Main/<split>.txt``.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ..detection.errors import DataError
from .image import DEFAULT_RULES, IMAGE_SUFFIXES, ImageRules, read_size
from .raw import RawBox, RawImage, RawObject, first_few

Coordinates = Literal["one_based", "zero_based"]
Difficult = Literal["exclude", "ignore", "include"]

_LARGEST_XML = 10 * 2**20
_ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
#: The devkit's class image sets end each line with whether the class is there.
_PRESENCE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
_LOG = logging.getLogger(__name__)


def read_voc(
    root: Path,
    split: str,
    *,
    coordinates: Coordinates = "one_based",
    difficult: Difficult = "ignore",
    rules: ImageRules = DEFAULT_RULES,
) -> list[RawImage]:
    """The pictures of an image set, in its order, those without objects included.

    ``coordinates``: ``one_based`` counts pixels from 1 and includes the last one (VOC devkit), so
    that x1 - 1, y1 - 1, x2, y2 are ours. ``difficult``: ``exclude`` leaves such objects out,
    ``ignore`` marks them, ``include`` treats them like any other.

    A class's image set (``dog_train.txt``) is read as the list of all its pictures.
    Sizes come from the pictures' headers and are compared with ``<size>``. Raises `DataError`
    listing everything wrong with the folder and the files.
    """
    pairs = _pair(root, _read_image_set(root, split), split)
    images, errors, renamed = [], [], 0
    for image_id, (picture, xml) in pairs.items():
        try:
            tree = _parse(xml)
            size = _size(tree, xml, picture, rules)
            objects = _objects(tree, xml, coordinates, difficult)
        except DataError as error:
            errors.append(str(error))
            continue
        renamed += _text(tree, "filename") not in ("", picture.name, picture.stem)
        images.append(RawImage(image_id, picture, size, objects, xml))
    if errors:
        raise DataError(
            f"{root}: {len(errors)} of {len(pairs)} pictures of {split!r} cannot be used: "
            + first_few(errors)
        )
    if renamed:
        _LOG.warning("%s: %d <filename> entries name another file; ids decide", root, renamed)
    return images


# ---------------------------------------------------------------------------------- folders


def _read_image_set(root: Path, split: str) -> list[str]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        there = sorted(file.stem for file in folder.glob("*.txt"))
        raise DataError(f"{path}: no such image set; there are: {', '.join(there) or 'none'}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise DataError(f"{path}: lists no pictures")
    return lines


def _pair(root: Path, lines: list[str], split: str) -> dict[str, tuple[Path, Path]]:
    """{id: (picture, XML)}, or one error with everything that is missing, ambiguous or double."""
    pictures = _pictures_by_stem(root / "JPEGImages")
    ids = [_image_id(line, pictures) for line in lines]
    xmls = {path.stem: path for path in (root / "Annotations").glob("*.xml")}
    counts = Counter(ids)
    troubles = {
        "listed twice": [name for name, count in counts.items() if count > 1],
        "without a picture in JPEGImages": [name for name in counts if name not in pictures],
        "with several pictures": [name for name in counts if len(pictures.get(name, ())) > 1],
        "without an XML in Annotations": [name for name in counts if name not in xmls],
    }
    found = [
        f"{len(names)} {trouble} ({first_few(names)})"
        for trouble, names in troubles.items()
        if names
    ]
    if found:
        raise DataError(f"{root}: image set {split!r}: {', '.join(found)}")
    return {name: (pictures[name][0], xmls[name]) for name in ids}


def _image_id(line: str, pictures: dict[str, list[Path]]) -> str:
    """The line, without the presence flag of a class's image set."""
    flagged = _PRESENCE.match(line)
    return flagged.group(1) if flagged and line not in pictures else line


def _pictures_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Files by stem; other files of the same stem (`.json`, `.txt`) do not count."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        found[path.stem].append(path)
    for stem, paths in found.items():
        found[stem] = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES] or paths
    return dict(found)


# ---------------------------------------------------------------------------------- one XML


def _parse(path: Path) -> Element:
    try:
        if path.stat().st_size > _LARGEST_XML:
            raise DataError(f"{path}: larger than {_LARGEST_XML // 2**20} MB, not an annotation")
        root = _parse_bytes(path.read_bytes())
    except DefusedXmlException as error:
        raise DataError(f"{path}: declares entities, which are not accepted") from error
    except (ParseError, ValueError, LookupError, OSError) as error:
        raise DataError(f"{path}: not readable as XML ({error})") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: the root is <{root.tag}>, expected <annotation>")
    return root


def _parse_bytes(data: bytes) -> Element:
    data = data.lstrip()  # editors leave blank lines in front of the declaration
    declared = _ENCODING.match(data)
    try:
        root: Element = fromstring(data)
    except DefusedXmlException:
        raise
    except ValueError:  # expat knows no multi-byte encodings (GBK, Shift-JIS); Python does
        if not declared:
            raise
        root = fromstring(_DECLARATION.sub("", data.decode(declared.group(1).decode("ascii"))))
    return root


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(element: Element, tag: str, where: str) -> float:
    text = _text(element, tag)
    try:
        return float(text)
    except ValueError:
        hint = ": decimals take a point" if "," in text else ""
        raise DataError(f"{where}: <{tag}> is {text!r}, expected a number{hint}") from None


def _size(tree: Element, xml: Path, picture: Path, rules: ImageRules) -> tuple[int, int]:
    """(h, w) of the picture; a `<size>` that says something else is an error."""
    actual = read_size(picture, rules)
    element = tree.find("size")
    if element is None or "" in (_text(element, "height"), _text(element, "width")):
        return actual
    claimed = [_number(element, side, str(xml)) for side in ("height", "width")]
    if claimed in (list(actual), [0, 0]):  # 0 x 0: from tools that did not open the picture
        return actual
    said = f"{xml}: <size> is {claimed[1]:g}x{claimed[0]:g}, {picture.name} {actual[1]}x{actual[0]}"
    other: Literal["apply", "ignore"] = "ignore" if rules.exif == "apply" else "apply"
    if claimed == list(read_size(picture, replace(rules, exif=other))):
        moment = "before" if other == "ignore" else "after"
        raise DataError(f"{said}: boxes were drawn {moment} EXIF rotation, set `exif: {other}`")
    raise DataError(said)


def _objects(
    tree: Element, xml: Path, coordinates: Coordinates, difficult: Difficult
) -> tuple[RawObject, ...]:
    objects = []
    for number, element in enumerate(tree.findall("object"), 1):
        name = _text(element, "name")
        if not name:
            raise DataError(f"{xml}: object {number} has no name")
        where = f"{xml}: object {number} ({name})"
        is_difficult = _is_difficult(element, where)
        if is_difficult and difficult == "exclude":
            continue
        box = _box(element, where, coordinates)
        objects.append(RawObject(name, box, is_difficult and difficult == "ignore"))
    return tuple(objects)


def _box(element: Element, where: str, coordinates: Coordinates) -> RawBox:
    boxes = element.findall("bndbox")  # direct children: a <part> has its own
    if len(boxes) != 1:
        raise DataError(f"{where}: {len(boxes)} <bndbox>, expected 1")
    x1, y1, x2, y2 = (_number(boxes[0], tag, where) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if coordinates == "zero_based":
        return x1, y1, x2, y2
    (x1, x2), (y1, y2) = _lower_the_smaller(x1, x2), _lower_the_smaller(y1, y2)
    return x1, y1, x2, y2


def _lower_the_smaller(first: float, last: float) -> tuple[float, float]:
    """Pixels counted from 1 to edges counted from 0; swapped corners stay swapped, and right."""
    return (first, last - 1) if last < first else (first - 1, last)


def _is_difficult(element: Element, where: str) -> bool:
    """Absent, empty and "Unspecified" (labelling tools write it) mean no."""
    if _text(element, "difficult").lower() in ("", "unspecified"):
        return False
    value = _number(element, "difficult", where)
    if math.isnan(value):
        raise DataError(f"{where}: <difficult> is not a number")
    return value != 0
