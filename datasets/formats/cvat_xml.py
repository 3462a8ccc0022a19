"""CVAT for images 1.1: one XML file with the boxes and polygons of all images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml.common import DefusedXmlException

from ..findings import Fault, Finding
from ..records import RawBox, RawImage, RawObject
from .file_source import (
    FileEntry,
    FileLayout,
    FileSource,
    bounding_box,
    inspect_entries,
    outlines_note,
    probe,
    read_bytes,
    rotated_box,
)
from .format import Contents, Format, Inspected, Reading
from .values import Values
from .voc_xml import parse_xml
from .writing import Place, Splits, Writer, fit_box, number, write_new

_OUTLINES = frozenset({"polygon", "polyline", "points", "mask"})


class CvatSource(FileSource):
    """An ``annotations.xml`` of CVAT, whose image names are resolved below ``images``."""

    format: Literal["cvat"] = "cvat"


def _parse(path: Path) -> Element:
    try:
        root = parse_xml(read_bytes(path))
    except DefusedXmlException as error:
        reason = "declares entities, which are not accepted"
        raise Fault.of("malformed_xml", path, reason) from error
    except (ParseError, ValueError, LookupError) as error:
        raise Fault.of("malformed_xml", path, f"not readable as XML ({error})") from error
    if root.tag != "annotations":
        reason = f"the root is <{root.tag}>, expected <annotations>"
        raise Fault.of("malformed_xml", path, reason)
    return root


def inspect_cvat(source: CvatSource, reading: Reading) -> Inspected:
    """The images in the order of the file, and all findings.

    Polygons and rotated boxes become the boxes around them; polylines, points and masks are errors.
    """
    path = source.annotations
    try:
        root = _parse(path)
    except Fault as fault:
        return [], [fault.finding]
    findings: list[Finding] = []
    entries, outlines, values = [], 0, Values(texts=True)
    for index, image in enumerate(root.findall("image"), 1):
        name = image.get("name", "")
        where = f"image {image.get('id', index)}"
        try:
            size = values.size(image.get("height"), image.get("width"))
        except ValueError as error:
            findings.append(Finding("bad_image", "error", path, str(error), where))
            continue
        objects = []
        for number_, element in enumerate(image.iter(), 0):
            if element.tag != "box" and element.tag not in _OUTLINES:
                continue
            try:
                obj, outline = _object(element, path, f"{where}: shape {number_}", values)
            except Fault as fault:
                findings.append(fault.finding)
                continue
            objects.append(obj)
            outlines += outline
        entries.append(FileEntry(name, size, tuple(objects), where))
    findings += outlines_note(path, outlines) + values.notes(path)
    return inspect_entries(source, reading, entries, findings)


def _object(element: Element, path: Path, where: str, values: Values) -> tuple[RawObject, bool]:
    """The object, and whether its box is one around an outline."""
    name = element.get("label", "").strip()
    if not name:
        raise Fault.of("unnamed_object", path, "has no label", object=where)
    where = f"{where} ({name})"
    if element.tag not in ("box", "polygon"):
        reason = f"a {element.tag} has no box"
        raise Fault.of("malformed_object", path, reason, object=where)
    try:
        box, outline = _corners(element, values)
    except ValueError as error:
        raise Fault.of("not_a_number", path, str(error), object=where) from error
    return RawObject(name, box, _is_difficult(element), where), outline


def _corners(element: Element, values: Values) -> tuple[RawBox, bool]:
    if element.tag == "polygon":
        points = (point.split(",") for point in element.get("points", "").split(";") if point)
        try:
            corners = [(values.stated("points", x), values.stated("points", y)) for x, y in points]
            return bounding_box(corners), True
        except ValueError:
            text = element.get("points", "")
            raise ValueError(f"points are {text!r:.40}, expected x,y;x,y with numbers") from None
    sides = ("xtl", "ytl", "xbr", "ybr")
    x1, y1, x2, y2 = (values.stated(side, element.get(side)) for side in sides)
    degrees = (values.number("rotation", element.get("rotation")) or 0.0) % 360
    if degrees:
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        return rotated_box((x1, y1, x2, y2), degrees, centre), True
    return (x1, y1, x2, y2), False


def _is_difficult(element: Element) -> bool:
    return any(
        attribute.get("name") == "difficult" and (attribute.text or "").strip().lower() == "true"
        for attribute in element.findall("attribute")
    )


def _classes(source: CvatSource) -> tuple[str, ...] | None:
    labels = (name.text for name in _parse(source.annotations).iterfind("meta//label/name"))
    return tuple(dict.fromkeys(name.strip() for name in labels if name)) or None


def _contents(source: CvatSource, images: Sequence[RawImage]) -> Contents:
    return Contents(source.images, Counter(_extras(_parse(source.annotations))))


def _extras(root: Element) -> Iterator[str]:
    """Names of what a `RawImage` does not store: outlines, tags, attributes, rotation, groups."""
    for element in (each for image in root.iterfind("image") for each in image.iter()):
        if element.tag == "attribute":
            name = element.get("name", "")
            yield from [f"attribute {name}"] if name != "difficult" else []
        elif element.tag not in ("image", "box"):
            yield f"<{element.tag}>"
        known = ("occluded", "rotation", "group_id")
        yield from (key for key in known if element.get(key, "0") not in ("", "0", "0.0"))


def _is_cvat(path: Path) -> bool:
    return re.search(r"<annotations>\s*<version>1\.", probe(path)) is not None


def _image_names(path: Path) -> Iterator[str]:
    return (image.get("name", "") for image in _parse(path).iterfind("image"))


# ---------------------------------------------------------------------------------- writing


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``<split>.xml`` with the images in ``<split>``."""
    for split, images in splits.items():
        root = Element("annotations")
        SubElement(root, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
        for name in classes:
            SubElement(SubElement(labels, "label"), "name").text = name
        for index, image in enumerate(images):
            place(image.source, out / split / image.name)
            height, width = image.size
            name = f"{split}/{image.name.as_posix()}"
            facts = {"id": str(index), "name": name, "width": str(width), "height": str(height)}
            element = SubElement(root, "image", facts)
            for obj in image.objects:
                _add_box(element, obj)
        indent(root)
        write_new(out / f"{split}.xml", tostring(root, encoding="unicode") + "\n")


def _add_box(image: Element, obj: RawObject) -> None:
    sides = zip(("xtl", "ytl", "xbr", "ybr"), map(number, obj.box), strict=True)
    box = SubElement(image, "box", {"label": obj.name, "occluded": "0", **dict(sides)})
    if obj.ignore:
        SubElement(box, "attribute", {"name": "difficult"}).text = "true"


_LAYOUT = FileLayout(CvatSource, ".xml", _is_cvat, "a file of CVAT", _image_names)

FORMAT = Format(
    name="cvat",
    source=CvatSource,
    carries="boxes",
    layout="an XML file with <annotations>",
    recognise=_LAYOUT.recognise,
    recognise_file=_LAYOUT.recognise_file,
    splits=_LAYOUT.splits,
    named=_LAYOUT.named,
    inspect=inspect_cvat,
    contents=_contents,
    classes=_classes,
    writer=Writer(fit=fit_box, write=_write, pairs_by_stem=False),
)
