"""PASCAL VOC annotations (XML): reading and writing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ...detection.files import read_limited
from ..coordinates import Coordinates
from ..findings import Fault, Finding
from ..records import RawBox, RawObject
from ..text import utf8_text
from .format import Difficult
from .values import Values
from .writing import Outgoing, number

_LARGEST_XML = 10 * 2**20
_ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
#: Encodings in which the marks below look like this, and NUL is what UTF-16 has in each tag.
_PLAIN = frozenset({"utf-8", "us-ascii", "ascii", "iso-8859-1", "windows-1252"})
_SUSPICIOUS = (b"\0", b"<!DOCTYPE", b"<!ENTITY")
#: The elements that `RawObject` stores; others are lost in a conversion.
_OBJECT_TAGS = frozenset({"name", "bndbox", "difficult"})
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def parse_annotation(path: Path) -> Element:
    """The ``<annotation>``; raises `Fault` of kind ``malformed_xml``."""
    try:
        root = parse_xml(read_limited(path, _LARGEST_XML))
    except DefusedXmlException as error:
        raise _malformed(path, "declares entities, which are not accepted") from error
    except (ParseError, ValueError, LookupError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _malformed(path, f"not readable as XML ({reason})") from error
    if root.tag != "annotation":
        raise _malformed(path, f"the root is <{root.tag}>, expected <annotation>")
    return root


def claimed_size(tree: Element, path: Path, values: Values) -> tuple[float, float] | None:
    """(h, w) of ``<size>``; None if absent or 0 x 0, as written by tools that skip the image;
    raises `Fault`."""
    element = tree.find("size")
    if element is None:
        return None
    try:
        return values.size(_text(element, "height"), _text(element, "width"))
    except ValueError as error:
        raise Fault.of("bad_image", path, str(error), object="<size>") from None


def stated_names(path: Path) -> tuple[str, str]:
    """``<filename>`` and ``<path>`` of a file; "" for what it has not, or if it cannot be read."""
    try:
        tree = parse_annotation(path)
    except Fault:
        return "", ""
    return _text(tree, "filename"), _text(tree, "path")


def names_another_file(tree: Element, image_id: str) -> str:
    """The ``<filename>`` if it is not the image's; "" if it is, or is empty."""
    name = _text(tree, "filename")
    plain = PureWindowsPath(name)  # knows / and \; some tools write the whole path
    stems = (plain.name, plain.stem, unquote(plain.stem))  # Label Studio writes the name of a URL
    return "" if name == "" or image_id in stems else name


def read_objects(
    tree: Element, path: Path, coordinates: Coordinates, difficult: Difficult, values: Values
) -> tuple[list[RawObject], int, list[Finding]]:
    """The valid objects, the number of difficult ones that ``exclude`` left out, and findings:
    errors of invalid objects, and warnings."""
    objects, left_out, findings = [], 0, []
    for index, element in enumerate(tree.findall("object"), 1):
        where = f"object {index}"
        try:
            name = _class_name(element, path, where)
            named = f"{where} ({name})"
            is_difficult, doubts = _is_difficult(element, path, named, values)
            findings += doubts
            if is_difficult and difficult == "exclude":
                left_out += 1
                continue
            box = _box(element, path, named, coordinates, values)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        objects.append(RawObject(name, box, is_difficult and difficult == "ignore", where))
    return objects, left_out, findings


def _class_name(element: Element, path: Path, where: str) -> str:
    name = _text(element, "name")
    if not name:
        raise Fault.of("unnamed_object", path, "has no name", object=where)
    return name


def _box(
    element: Element, path: Path, where: str, coordinates: Coordinates, values: Values
) -> RawBox:
    boxes = element.findall("bndbox")  # direct children: a <part> has its own
    if len(boxes) != 1:
        kind = "several_boxes" if boxes else "missing_box"
        raise Fault.of(kind, path, f"{len(boxes)} <bndbox>, expected 1", object=where)
    tags = ("xmin", "ymin", "xmax", "ymax")
    try:
        x1, y1, x2, y2 = (values.stated(f"<{tag}>", _text(boxes[0], tag)) for tag in tags)
    except ValueError as error:
        raise Fault.of("not_a_number", path, str(error), object=where) from None
    if coordinates == "zero_based":
        return x1, y1, x2, y2
    (x1, x2), (y1, y2) = _lower_the_smaller(x1, x2), _lower_the_smaller(y1, y2)
    return x1, y1, x2, y2


def _lower_the_smaller(first: float, last: float) -> tuple[float, float]:
    """1-based inclusive pixels to 0-based edges; swapped corners stay swapped."""
    return (first, last - 1) if last < first else (first - 1, last)


def _is_difficult(
    element: Element, path: Path, where: str, values: Values
) -> tuple[bool, list[Finding]]:
    """Absent, empty and "Unspecified" (labelling tools write it) mean no; other words are taken so
    too, with a warning."""
    text = _text(element, "difficult")
    if text.lower() == "unspecified":
        return False, []
    try:
        return values.flag("<difficult>", text), []
    except ValueError as error:
        reason = f"{error}: taken as 0"
        return False, [Finding("unclear_difficult", "warning", path, reason, where)]


def extra_tags(tree: Element) -> Iterator[str]:
    """Names of elements other than names, boxes and difficult objects."""
    if _has_content(tree.find("segmented")):
        yield "<segmented>"
    for obj in tree.findall("object"):
        for element in obj:
            if element.tag not in _OBJECT_TAGS and _has_content(element):
                yield f"<{element.tag}>"


def _has_content(element: Element | None) -> bool:
    """Whether an element is present and not a default of labelling tools."""
    if element is None:
        return False
    text = (element.text or "").strip().lower()
    return len(element) > 0 or text not in ("", "0", "unspecified")


# ---------------------------------------------------------------------------------- writing


def format_annotation(image: Outgoing, truncated: Sequence[bool] = ()) -> str:
    """The XML of an image. Coordinates count pixels from 1 and include the last one; decimals are
    kept. ``ignore`` becomes ``difficult``."""
    height, width = image.size
    root = Element("annotation")
    _add(root, {"filename": image.name.name})
    # 3 channels: every image is read as RGB.
    _add(ET.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    # Segmented, pose and truncated are not known; the devkit's reader fails where they are missing.
    _add(root, {"segmented": 0})
    flags = truncated or [False] * len(image.objects)
    for obj, cut in zip(image.objects, flags, strict=True):
        node = ET.SubElement(root, "object")
        _add(node, {"name": obj.name, "pose": "Unspecified", "truncated": int(cut)})
        _add(node, {"difficult": int(obj.ignore)})
        x1, y1, x2, y2 = obj.box
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        _add(ET.SubElement(node, "bndbox"), {tag: number(side) for tag, side in corners.items()})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)


# ---------------------------------------------------------------------------------- text


def _malformed(path: Path, reason: str) -> Fault:
    return Fault.of("malformed_xml", path, reason)


def parse_xml(data: bytes) -> Element:
    """The root of a document in the encoding that it states.

    Raises ParseError, ValueError and LookupError for what cannot be read, NotUtf8 if that is its
    encoding, and DefusedXmlException for entities.
    """
    try:
        return _parse_bytes(data)
    except ParseError:
        declared = _ENCODING.match(data.lstrip())
        if b"\0" not in data and (declared is None or declared.group(1).lower() == b"utf-8"):
            utf8_text(data)
        raise


def _parse_bytes(data: bytes) -> Element:
    data = data.lstrip()  # editors leave blank lines in front of the declaration
    declared = _ENCODING.match(data)
    encoding = declared.group(1).decode("ascii").lower() if declared else "utf-8"
    if encoding in _PLAIN and not any(mark in data for mark in _SUSPICIOUS):
        # Nothing in it can declare an entity, and defusedxml parses in Python, five times slower.
        return ET.fromstring(data)  # noqa: S314
    try:
        root: Element = fromstring(data)
    except DefusedXmlException:
        raise
    except ValueError:  # expat knows no multi-byte encodings (GBK, Shift-JIS); Python does
        if not declared:
            raise
        root = fromstring(_DECLARATION.sub("", data.decode(encoding)))
    return root


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
