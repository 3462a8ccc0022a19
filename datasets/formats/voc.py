"""What does a PASCAL VOC folder say about its images?

Layout: ``JPEGImages/<id>.*``, ``Annotations/<id>.xml``, ``ImageSets/Main/<split>.txt``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..coordinates import Coordinates, question_coordinates
from ..findings import Fault, Finding, count_kinds, refuse
from ..image import DEFAULT_RULES, IMAGE_SUFFIXES, ImageRules
from ..parallel import Died, map_items
from ..records import RawImage, first_few
from .claimed_size import checked_size
from .voc_xml import Difficult, claimed_size, names_another_file, parse_annotation, read_objects

__all__ = ["Coordinates", "Difficult", "inspect_voc", "inspect_voc_folder", "read_voc"]

#: The devkit's class image sets end each line with whether the class is there ...
_PRESENCE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
#: ... and those of actions name a person of the image before that.
_PERSON = re.compile(r"^(.*\S)\s+\d+$")
#: Images from which on starting processes (a second) costs less than they save.
_WORTH_SHARING = 1000
_LOG = logging.getLogger(__name__)


class _Pair(NamedTuple):
    image_id: str
    image: Path
    xml: Path


def read_voc(
    root: Path,
    split: str,
    *,
    coordinates: Coordinates = "one_based",
    difficult: Difficult = "ignore",
    rules: ImageRules = DEFAULT_RULES,
) -> list[RawImage]:
    """As `inspect_voc`, but raises `DataError` listing the errors found; warnings are logged."""
    images, findings = inspect_voc(
        root, split, coordinates=coordinates, difficult=difficult, rules=rules
    )
    refuse(findings, f"{root}: image set {split!r}")
    if findings:
        _LOG.warning("%s: image set %r: %s", root, split, count_kinds(findings))
    return images


def inspect_voc(
    root: Path,
    split: str | None,
    *,
    coordinates: Coordinates = "one_based",
    difficult: Difficult = "ignore",
    rules: ImageRules = DEFAULT_RULES,
    workers: int = 0,
) -> tuple[list[RawImage], list[Finding]]:
    """The usable images of an image set, in its order, and everything that is wrong with it.

    ``split`` None takes every annotation of the folder. ``coordinates``: ``one_based`` counts
    pixels from 1 and includes the last one (VOC devkit), so that x1 - 1, y1 - 1, x2, y2 are ours.
    ``difficult``: ``exclude`` leaves such objects out, ``ignore`` marks them, ``include`` treats
    them like any other. Images without objects are included.

    A class's image set (``dog_train.txt``) is read as the list of all its images.
    Sizes come from the images' headers and are compared with ``<size>``. ``workers`` processes
    share a large folder; 0 reads in this one.
    """
    try:
        pairs, findings = _pair(root, split)
    except Fault as fault:
        return [], [fault.finding]
    read = partial(_read_pair, coordinates=coordinates, difficult=difficult, rules=rules)
    share = workers if len(pairs) >= _WORTH_SHARING else 0
    images: dict[int, RawImage] = {}
    for index, result in map_items(read, pairs, workers=share):
        if isinstance(result, Died):
            xml = pairs[index].xml
            findings.append(Finding("reader_crashed", "error", xml, result.reason))
            continue
        image, faults = result
        findings += faults
        if image is not None:
            images[index] = image
    in_order = [images[index] for index in sorted(images)]
    return in_order, findings + question_coordinates(in_order, coordinates)


def _read_pair(
    pair: _Pair, *, coordinates: Coordinates, difficult: Difficult, rules: ImageRules
) -> tuple[RawImage | None, list[Finding]]:
    """None: the image cannot be used."""
    image_id, image, xml = pair
    try:
        tree = parse_annotation(xml)
        size = checked_size(image, claimed_size(tree, xml), xml, rules, object="<size>")
    except Fault as fault:
        return None, [replace(fault.finding, image=image)]
    objects, faults = read_objects(tree, xml, coordinates=coordinates, difficult=difficult)
    findings = [replace(finding, image=image) for finding in faults]
    if other := names_another_file(tree, image_id):
        reason = f"<filename> is {other!r}, the image {image.name}: the id decides"
        findings.append(Finding("other_filename", "warning", xml, reason, image=image))
    return RawImage(image_id, image, size, tuple(objects), xml), findings


def inspect_voc_folder(root: Path) -> list[Finding]:
    """What no image set leads to: images and annotations without the other, or listed nowhere."""
    try:
        images = _images_by_stem(root / "JPEGImages")
    except Fault as fault:
        return [fault.finding]
    listed: set[str] = set()
    alone: list[Finding] = []
    for split in image_sets(root):
        try:
            listed |= set(_listed(root, split, images))
        except Fault as fault:
            alone.append(fault.finding)
    xmls = _annotations(root)
    alone += [
        Finding("orphan_annotation", "warning", xmls[stem], "has no image and is listed nowhere")
        for stem in sorted(xmls.keys() - images.keys() - listed)
    ]
    for stem in sorted(images.keys() - xmls.keys() - listed):
        path = images[stem][0]
        if path.suffix.lower() in IMAGE_SUFFIXES:
            reason = "has no annotation and is listed nowhere"
            alone.append(Finding("orphan_image", "warning", path, reason, image=path))
    unlisted = sorted((images.keys() & xmls.keys()) - listed)
    if unlisted and listed:
        reason = f"{len(unlisted)} annotated images are in no image set: {first_few(unlisted)}"
        alone.append(Finding("unlisted_image", "note", root / "ImageSets" / "Main", reason))
    return alone


# ---------------------------------------------------------------------------------- image sets


def image_sets(root: Path) -> list[str]:
    """Names of all image sets of the folder, sorted."""
    return sorted(path.stem for path in (root / "ImageSets" / "Main").glob("*.txt"))


def disjoint_sets(root: Path) -> list[str]:
    """The image sets that together hold everything once.

    Left out are sets of one class (``dog_train`` beside ``train``) and unions of smaller ones
    (``trainval``); ``train`` comes first.
    """
    names = image_sets(root)
    names = [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]
    images = _images_by_stem(root / "JPEGImages")
    members: dict[str, set[str]] = {}
    for name in names:
        try:
            members[name] = set(_listed(root, name, images))
        except Fault:  # stays, and is reported when it is read
            members[name] = {f"unreadable {name}"}

    def is_union(name: str) -> bool:
        smaller = [ids for ids in members.values() if len(ids) < len(members[name])]
        return members[name] <= set().union(*smaller)

    parts = [name for name in names if not is_union(name)]
    return sorted(parts, key=lambda name: (not name.startswith("train"), name))


def _set_path(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _listed(root: Path, split: str, images: dict[str, list[Path]]) -> list[str]:
    """The ids of an image set."""
    path = _set_path(root, split)
    if not path.is_file():
        there = ", ".join(image_sets(root)) or "none"
        raise Fault.of("missing_image_set", path, f"no such image set; there are: {there}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Fault.of("unreadable_image_set", path, f"cannot be read ({error})") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise Fault.of("empty_image_set", path, "lists no images")
    return [_image_id(line, images) for line in lines]


def _image_id(line: str, images: dict[str, list[Path]]) -> str:
    """The line without the columns of a class's or an action's image set."""
    flagged = _PRESENCE.match(line)
    if line in images or not flagged:
        return line
    name = flagged.group(1)
    person = _PERSON.match(name)
    return person.group(1) if person and name not in images else name


# ---------------------------------------------------------------------------------- folders


def _pair(root: Path, split: str | None) -> tuple[list[_Pair], list[Finding]]:
    """Each id with its files, and the errors: what is missing, ambiguous or double."""
    images = _images_by_stem(root / "JPEGImages")
    xmls = _annotations(root)
    ids = sorted(xmls) if split is None else _listed(root, split, images)
    place = root / "Annotations" if split is None else _set_path(root, split)
    pairs, findings = [], []
    for name, count in Counter(ids).items():
        files, xml = images.get(name, []), xmls.get(name)
        if count > 1:
            findings.append(_error("listed_twice", place, f"listed {count} times", name))
        if not files:
            findings.append(_error("missing_image", place, "no image in JPEGImages", name))
        if len(files) > 1:
            reason = f"several images: {', '.join(path.name for path in files)}"
            findings.append(_error("ambiguous_image", place, reason, name))
        if xml is None:
            reason = f"no annotation {name}.xml in Annotations"
            findings.append(_error("missing_annotation", place, reason, name, *files[:1]))
        if len(files) == 1 and xml is not None:
            pairs.append(_Pair(name, files[0], xml))
    return pairs, findings


def _error(kind: str, file: Path, reason: str, image_id: str, image: Path | None = None) -> Finding:
    return Finding(kind, "error", file, reason, image_id, image)


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Files by stem; other files of the same stem (`.json`, `.txt`) do not count."""
    if not folder.is_dir():
        raise Fault.of("missing_folder", folder, "no such folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        found[path.stem].append(path)
    for stem, paths in found.items():
        found[stem] = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES] or paths
    return dict(found)


def _annotations(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in (root / "Annotations").glob("*.xml")}
