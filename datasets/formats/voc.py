"""PASCAL VOC folders: reading, writing and splitting.

Layout: ``JPEGImages/<id>.*``, ``Annotations/<id>.xml``, ``ImageSets/Main/<split>.txt``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..coordinates import Coordinates, check_coordinates
from ..findings import Fault, Finding
from ..image import IMAGE_SUFFIXES
from ..records import RawImage, RawObject
from . import voc_xml
from .format import Contents, Format, Inspected, Reading, SplitSource
from .voc_sets import (
    annotations_by_stem,
    disjoint_sets,
    image_sets,
    images_by_stem,
    listed_ids,
    set_path,
)
from .writing import Fit, Place, Splits, Writer, fit_box, rounded, write_new
from .xml_pairs import Pair, read_pairs


class VocSource(SplitSource):
    """``root/{JPEGImages,Annotations}`` with the image set ``root/ImageSets/Main/<split>.txt``;
    ``split`` null takes every annotation of the folder."""

    format: Literal["voc"] = "voc"
    #: PASCAL counts pixels from 1 and includes the last one: x1 - 1, y1 - 1, x2, y2 become ours.
    coordinates: Coordinates = "one_based"
    #: False: images to test on, whose objects are not known; any annotations are not read.
    annotated: bool = True

    @property
    def title(self) -> str:
        return f"{self.root}: image set {self.split!r}"


def inspect_voc(source: VocSource, reading: Reading) -> Inspected:
    """The usable images of an image set, in its order, and all findings.

    Images without objects are included. A class's image set (``dog_train.txt``) is read as the
    list of all its images. Sizes come from the images' headers and are compared with ``<size>``.
    """
    try:
        pairs, findings = _pair(source)
    except Fault as fault:
        return [], [fault.finding]
    root, split = source.root, source.split
    listed = root / "JPEGImages" if split is None else set_path(root, split)
    images, faults = read_pairs(pairs, source.coordinates, reading, listed)
    return images, findings + faults + check_coordinates(images, source.coordinates)


def inspect_folders(sources: Sequence[VocSource]) -> list[Finding]:
    """Findings: images without annotation and the reverse, and those in no image set."""
    roots = dict.fromkeys(source.root for source in sources)
    return [finding for root in roots for finding in _inspect_folder(root)]


def _inspect_folder(root: Path) -> list[Finding]:
    try:
        images = images_by_stem(root / "JPEGImages")
    except Fault as fault:
        return [fault.finding]
    listed: set[str] = set()
    alone: list[Finding] = []
    for split in image_sets(root):
        try:
            listed |= set(listed_ids(root, split, images))
        except Fault as fault:
            alone.append(fault.finding)
    xmls = annotations_by_stem(root)
    alone += [
        Finding("orphan_annotation", "warning", xmls[stem], "has no image and is listed nowhere")
        for stem in sorted(xmls.keys() - images.keys() - listed)
    ]
    for stem in sorted(images.keys() - xmls.keys() - listed):
        path = images[stem][0]
        if path.suffix.lower() in IMAGE_SUFFIXES:
            reason = "has no annotation and is listed nowhere"
            alone.append(Finding("orphan_image", "warning", path, reason, image=path))
    if listed and (unlisted := sorted((images.keys() & xmls.keys()) - listed)):
        reason = f"{len(unlisted)} annotated images are in no image set: {first_few(unlisted)}"
        alone.append(Finding("unlisted_image", "note", root / "ImageSets" / "Main", reason))
    return alone


def _pair(source: VocSource) -> tuple[list[Pair], list[Finding]]:
    """The images of a set, and errors: missing, ambiguous or repeated ones."""
    root, split = source.root, source.split
    images = images_by_stem(root / "JPEGImages")
    xmls = annotations_by_stem(root) if source.annotated else {}
    every = sorted(xmls if source.annotated else images)
    ids = every if split is None else listed_ids(root, split, images)
    place = root / "Annotations" if split is None else set_path(root, split)
    pairs: list[Pair] = []
    findings: list[Finding] = []

    def fault(kind: str, name: str, reason: str, image: Path | None = None) -> None:
        findings.append(Finding(kind, "error", place, reason, name, image))

    for name, count in Counter(ids).items():
        files, xml = images.get(name, []), xmls.get(name)
        if count > 1:
            fault("listed_twice", name, f"listed {count} times")
        if not files:
            fault("missing_image", name, "no image in JPEGImages")
        if len(files) > 1:
            fault(
                "ambiguous_image", name, f"several images: {', '.join(path.name for path in files)}"
            )
        if xml is None and source.annotated:
            reason = f"no annotation {name}.xml in Annotations"
            fault("missing_annotation", name, reason, *files[:1])
        if len(files) == 1 and (xml is not None or not source.annotated):
            pairs.append((name, files[0], xml))
    return pairs, findings


# ---------------------------------------------------------------------------------- writing


def _fit(obj: RawObject, size: tuple[int, int]) -> Fit:
    """A box narrower than a pixel has no VOC form: its last pixel would be before its first."""
    held, loss = fit_box(obj)
    x1, y1, x2, y2 = obj.box
    if held and (rounded(x2) < rounded(x1 + 1) or rounded(y2) < rounded(y1 + 1)):
        return None, "objects narrower than one pixel are left out"
    return held, loss


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """Image sets, one XML an image, and the images; an image of several splits is written once."""
    written: set[Path] = set()
    for split, images in splits.items():
        for image in images:
            target = out / "JPEGImages" / image.name
            if target in written:
                continue
            written.add(target)
            place(image.source, target)
            xml = out / "Annotations" / f"{image.name.stem}.xml"
            write_new(xml, voc_xml.format_annotation(image))
        write_new(set_path(out, split), "".join(f"{image.name.stem}\n" for image in images))


def _divide(
    source: VocSource, parts: Mapping[str, Sequence[str]], folder: Path | None
) -> dict[Path, str]:
    return {
        set_path(source.root, part): "".join(f"{name}\n" for name in names)
        for part, names in parts.items()
    }


def _contents(source: VocSource, images: Sequence[RawImage]) -> Contents:
    trees = (voc_xml.parse_annotation(image.source) for image in images)
    extras = Counter(tag for tree in trees for tag in voc_xml.extra_tags(tree))
    return Contents(source.root / "JPEGImages", extras=extras)


def _splits(root: Path) -> dict[str, VocSource]:
    sets = {name: VocSource(root=root, split=name) for name in disjoint_sets(root)}
    return sets or {"all": VocSource(root=root, split=None)}


FORMAT = Format(
    name="voc",
    source=VocSource,
    carries="boxes",
    layout="JPEGImages",
    recognise=lambda root: (root / "JPEGImages").is_dir(),
    splits=_splits,
    inspect=inspect_voc,
    inspect_folder=inspect_folders,
    contents=_contents,
    writer=Writer(
        fit=_fit,
        write=_write,
        flat=True,
        keeps_class_list=False,
        ignored="crowds become difficult objects: ignored as before, but each excuses only "
        "detections that overlap it by half",
    ),
    divide=_divide,
)
