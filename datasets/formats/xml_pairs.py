"""Images with XML annotations like those of PASCAL VOC, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..coordinates import Coordinates
from ..findings import Fault, Finding
from ..parallel import WORTH_SHARING, Died, map_items
from ..records import RawImage
from . import voc_xml
from .format import Inspected, Reading, checked_size, fit_to_image
from .values import Values

#: An image's id, its file and its XML; None where it has no objects, or they are not known.
Pair = tuple[str, Path, Path | None]


def read_pairs(
    pairs: Sequence[Pair], coordinates: Coordinates, reading: Reading, listed: Path
) -> Inspected:
    """The usable images in the order of ``pairs``, and the findings about them. ``listed`` is the
    source of images without XML."""
    read = partial(_read_pair, coordinates=coordinates, reading=reading, listed=listed)
    workers = reading.workers if len(pairs) >= WORTH_SHARING else 0
    images: dict[int, RawImage] = {}
    findings: list[Finding] = []
    values = Values(texts=True)
    for index, result in map_items(read, pairs, workers=workers):
        if isinstance(result, Died):
            _, path, xml = pairs[index]
            findings.append(Finding("reader_crashed", "error", xml or path, result.reason))
            continue
        image, faults, own = result
        findings += faults
        values.add(own)
        if image is not None:
            images[index] = image
    return [images[index] for index in sorted(images)], findings + values.notes(listed)


def _read_pair(
    pair: Pair, coordinates: Coordinates, reading: Reading, listed: Path
) -> tuple[RawImage | None, list[Finding], Values]:
    """The image, None if it cannot be used, its findings, and what was counted of its values."""
    image_id, image, xml = pair
    values = Values(texts=True)
    try:
        if xml is None:
            size = checked_size(image, None, listed, reading.rules)
            return RawImage(image_id, image, size, (), listed), [], values
        tree = voc_xml.parse_annotation(xml)
        claimed = voc_xml.claimed_size(tree, xml, values)
        objects, left_out, faults = voc_xml.read_objects(
            tree, xml, coordinates, reading.difficult, values
        )
        found = RawImage(image_id, image, (0, 0), tuple(objects), xml, left_out=left_out)
        found, sizes = fit_to_image(found, claimed, reading, object="<size>")
    except Fault as fault:
        return None, [replace(fault.finding, image=image)], values
    findings = [replace(finding, image=image) for finding in (*sizes, *faults)]
    if other := voc_xml.names_another_file(tree, image.stem):
        reason = f"<filename> is {other!r}, the image {image.name}"
        findings.append(Finding("other_filename", "warning", xml, reason, image=image))
    return found, findings, values
