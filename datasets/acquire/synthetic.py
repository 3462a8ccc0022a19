"""How does one get a detection data set without a download? By drawing it.

What is written is a PASCAL VOC folder: JPEG images, XML annotations, image sets.
"""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...detection.errors import ConfigError, DataError
from ...detection.files import write_file
from .scenes import Scene, draw_scene

#: A folder with this file was made here and may be made again.
MARKER = ".resdet-synthetic.json"
FOLDERS = ("ImageSets", "Annotations", "JPEGImages")
JPEG_QUALITY = 92


def make_scenes(
    out: Path, *, train: int, val: int, size: tuple[int, int] = (240, 320), seed: int = 0
) -> None:
    """Write a VOC data set of ``train`` + ``val`` scenes of ``size`` (h, w) into ``out``.

    The same arguments give the same files. A scene depends on its split, its index and the seed
    alone, so a larger set contains the smaller one. The image sets are written last: a folder that
    has them is complete. An earlier set made here is replaced; any other folder that is not empty
    is refused with DataError, and impossible counts or sizes with ConfigError.
    """
    _check_request(train=train, val=val, size=size, seed=seed)
    _clear(out)
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {}
    for order, (split, count) in enumerate((("train", train), ("val", val))):
        names[split] = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(names[split]):
            scene = draw_scene(np.random.default_rng([seed, order, index]), size)
            _write_image(out / "JPEGImages" / f"{name}.jpg", scene.pixels)
            _write_annotation(out / "Annotations" / f"{name}.xml", scene, folder=out.name)
    names["trainval"] = names["train"] + names["val"]
    for split, members in names.items():
        _write_image_set(out / "ImageSets" / "Main" / f"{split}.txt", members)


def _check_request(*, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    for name, count in (("train", train), ("val", val), ("seed", seed)):
        if count < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {count}")
    if min(size) < 64:
        raise ConfigError(f"size: expected at least 64 pixels on each side, got {tuple(size)}")


def _clear(out: Path) -> None:
    """Make ``out`` an empty folder with the marker, or refuse when its content is not ours."""
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise DataError(f"{out}: is not empty and was not made here; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"made_by": "resdet", "layout": "voc"}) + "\n", encoding="utf-8")
    for folder in FOLDERS:  # the image sets first: without them the folder is incomplete
        if (out / folder).exists():
            shutil.rmtree(out / folder)


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"{path}: the image could not be encoded as JPEG")
    path.write_bytes(encoded.tobytes())


def _write_annotation(path: Path, scene: Scene, *, folder: str) -> None:
    """The VOC 2007 layout; its pixels count from 1 and include the last one."""
    height, width, depth = scene.pixels.shape
    root = ET.Element("annotation")
    _add(root, {"folder": folder, "filename": f"{path.stem}.jpg"})
    _add(ET.SubElement(root, "source"), {"database": "resdet synthetic scenes"})
    _add(ET.SubElement(root, "size"), {"width": width, "height": height, "depth": depth})
    _add(root, {"segmented": 0})
    for item in scene.objects:
        node = ET.SubElement(root, "object")
        _add(node, {"name": item.name, "pose": "Unspecified"})
        _add(node, {"truncated": int(item.truncated), "difficult": int(item.difficult)})
        x1, y1, x2, y2 = item.box
        box = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        _add(ET.SubElement(node, "bndbox"), box)
    ET.indent(root)
    path.write_bytes(ET.tostring(root, encoding="utf-8") + b"\n")


def _add(parent: ET.Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)


def _write_image_set(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(f"{name}\n" for name in names))
