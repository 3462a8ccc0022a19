"""How is a data set written as a PASCAL VOC folder?"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from ..records import RawObject
from .outgoing import Fit, Outgoing, Place, Splits, fit_box, number, rounded, write_new


def fit_voc(obj: RawObject, size: tuple[int, int]) -> Fit:
    """A box narrower than a pixel has no VOC form: its last pixel would lie before its first."""
    held, loss = fit_box(obj)
    x1, y1, x2, y2 = obj.box
    if held and (rounded(x2) < rounded(x1 + 1) or rounded(y2) < rounded(y1 + 1)):
        return None, "objects narrower than one pixel are left out"
    return held, loss


def write_voc(out: Path, splits: Splits, place: Place) -> None:
    """Image sets, one XML an image, and the images, which ``place`` puts there.

    An image of several splits is written once. Coordinates count pixels from 1 and include the
    last one; decimals are kept. ``ignore`` becomes ``difficult``.
    """
    written: set[Path] = set()
    for split, images in splits.items():
        for image in images:
            target = out / "JPEGImages" / image.name
            if target in written:
                continue
            written.add(target)
            place(image.source, target)
            write_new(out / "Annotations" / f"{image.name.stem}.xml", _annotation(image))
        ids = "".join(f"{image.name.stem}\n" for image in images)
        write_new(out / "ImageSets" / "Main" / f"{split}.txt", ids)


def _annotation(image: Outgoing) -> str:
    height, width = image.size
    root = ET.Element("annotation")
    _add(root, {"filename": image.name.name})
    # What a reader gets: every image is read as RGB.
    _add(ET.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    # Segmented, pose and truncated are not known; the devkit's reader fails where they are missing.
    _add(root, {"segmented": 0})
    for obj in image.objects:
        node = ET.SubElement(root, "object")
        _add(node, {"name": obj.name, "pose": "Unspecified", "truncated": 0})
        _add(node, {"difficult": int(obj.ignore)})
        x1, y1, x2, y2 = obj.box
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        _add(ET.SubElement(node, "bndbox"), {tag: number(side) for tag, side in corners.items()})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: ET.Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)
