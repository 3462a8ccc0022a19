"""PASCAL VOC folders, published or exported by annotation tools: reading, writing, splitting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..coordinates import Coordinates, check_coordinates
from ..findings import Fault, Finding
from ..listing import is_image_name
from ..records import RawImage, RawObject
from . import voc_layout, voc_xml
from .format import Contents, Format, Inspected, Reading, SplitSource, root_places
from .image_names import ImageFiles
from .writing import Fit, Place, Splits, Writer, fit_box, rounded, write_new
from .xml_pairs import Pair, read_pairs


class VocSource(SplitSource):
    """``root/{JPEGImages,Annotations}`` with the image set ``root/ImageSets/Main/<split>.txt``, or
    folders as in `voc_layout`; ``split`` null takes every annotation of the folder."""

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
        place = voc_layout.find_place(source.root, source.split)
        files = ImageFiles(place.images, allow_outside=reading.allow_outside)
        pairs, findings = _pair(place, files, annotated=source.annotated)
    except Fault as fault:
        return [], [fault.finding]
    listed = place.image_set or place.images
    images, faults = read_pairs(pairs, source.coordinates, reading, listed)
    return images, findings + faults + check_coordinates(images, source.coordinates)


def inspect_folders(sources: Sequence[VocSource]) -> list[Finding]:
    """Findings: images without annotation and the reverse, and those in no image set."""
    roots: dict[tuple[Path, Path], Path] = {}
    for source in sources:
        try:
            place = voc_layout.find_place(source.root, source.split)
        except Fault:
            continue  # reported by `inspect_voc`
        root = place.image_set.parents[2] if place.image_set else source.root
        roots.setdefault((place.images, place.annotations), root)
    return [finding for place, root in roots.items() for finding in _unpaired(root, *place)]


def _unpaired(root: Path, image_folder: Path, xml_folder: Path) -> list[Finding]:
    images, xmls = voc_layout.image_paths(image_folder), voc_layout.xml_paths(xml_folder)
    listed: set[str] = set()
    alone: list[Finding] = []
    for split in voc_layout.image_sets(root):
        try:
            path = voc_layout.set_path(root, split)
            listed |= set(voc_layout.listed_ids(path, images.keys()))
        except Fault as fault:
            alone.append(fault.finding)
    own = {path for name in images.keys() & xmls.keys() for path in images[name]}
    named = _images_by_name({name: xmls[name] for name in xmls.keys() - images}, image_folder)
    stated = {name: path for name, path in named.items() if path not in own}
    if listed:
        for name in sorted(xmls.keys() - images.keys() - listed - stated.keys()):
            reason = "has no image, is listed nowhere"
            if name in named:
                reason = f"its image {named[name].name} has an annotation of its own"
            alone.append(Finding("orphan_annotation", "warning", xmls[name], reason))
    by_name = set(stated.values())
    for name in sorted(images.keys() - xmls.keys() - listed):
        path = images[name][0]
        if is_image_name(path.name) and path not in by_name:
            reason = "has no annotation, is listed nowhere"
            alone.append(Finding("orphan_image", "warning", path, reason, image=path))
    annotated = (images.keys() & xmls.keys()) | stated.keys()
    if listed and (unlisted := sorted(annotated - listed)):
        reason = f"{len(unlisted)} annotated images are in no image set: {first_few(unlisted)}"
        alone.append(Finding("unlisted_image", "note", root / "ImageSets" / "Main", reason))
    return alone


def _images_by_name(xmls: Mapping[str, Path], image_folder: Path) -> dict[str, Path]:
    """{annotation: image} of annotations that have another name than their images."""
    files, found = ImageFiles(image_folder), {}
    for name, xml in sorted(xmls.items()):
        with suppress(Fault):  # reported by `inspect_voc`
            found[name] = _resolve(name, xml, files, image_folder)
    return found


# ---------------------------------------------------------------------------------- files


def _pair(
    place: voc_layout.VocPlace, others: ImageFiles, *, annotated: bool
) -> tuple[list[Pair], list[Finding]]:
    """The images of a split, and findings: missing, ambiguous or repeated ones."""
    images = voc_layout.image_paths(place.images)
    xmls = voc_layout.xml_paths(place.annotations) if annotated else {}
    listing = place.image_set or place.annotations
    if place.image_set is None:
        ids = sorted(xmls if annotated else images)
    else:
        ids = voc_layout.listed_ids(place.image_set, images.keys())
    if not ids:
        raise Fault.of("no_images", listing, "has no annotations")
    pairs: list[Pair] = []
    findings: list[Finding] = []

    def fault(kind: str, name: str, reason: str, image: Path | None = None) -> None:
        findings.append(Finding(kind, "error", listing, reason, name, image))

    for name, count in Counter(ids).items():
        files, xml = images.get(name, []), xmls.get(name)
        if count > 1:
            fault("listed_twice", name, f"listed {count} times")
        if len(files) > 1:
            several = ", ".join(path.name for path in files)
            fault("ambiguous_image", name, f"several images: {several}")
        if not files:
            try:
                files = [_resolve(name, xml, others, listing)]
            except Fault as missing:
                findings.append(missing.finding)
        if files and xml is None and name in others.outside:
            xml = xmls.get(files[0].stem)
        if files and xml is None and annotated:
            reason = f"no annotation {name}.xml in {place.annotations.name}"
            fault("missing_annotation", name, reason, *files[:1])
        if len(files) == 1 and (xml is not None or not annotated):
            pairs.append((name, files[0], xml))
    for twice, names in _annotated_twice(pairs).items():
        reason = f"annotations {', '.join(names)} are of the same image {twice.name}"
        fault("listed_twice", names[0], reason, twice)
    return pairs, findings + others.notes(listing)


def _annotated_twice(pairs: Sequence[Pair]) -> dict[Path, list[str]]:
    """{image: its annotations} of images that several name as theirs."""
    found: dict[Path, list[str]] = {}
    for _, image, xml in pairs:
        if xml is not None:
            found.setdefault(image, []).append(xml.name)
    return {image: names for image, names in found.items() if len(names) > 1}


def _resolve(name: str, xml: Path | None, images: ImageFiles, listing: Path) -> Path:
    """The image of an annotation that none has the name of: by the name, or by ``<filename>`` or a
    ``<path>`` that is there."""
    try:
        return images.find(name, listing, name)
    except Fault:
        if xml is None:
            raise
        stated, path = voc_xml.stated_names(xml)
        stated = path if path and images.path_of(path, xml) else stated
        if not stated:
            raise
        return images.find(stated, xml, name)


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
        write_new(
            voc_layout.set_path(out, split), "".join(f"{image.name.stem}\n" for image in images)
        )


def _divide(
    source: VocSource, parts: Mapping[str, Sequence[str]], folder: Path | None
) -> dict[Path, str]:
    return {
        voc_layout.set_path(source.root, part): "".join(f"{name}\n" for name in names)
        for part, names in parts.items()
    }


def _contents(source: VocSource, images: Sequence[RawImage]) -> Contents:
    xmls = (image.source for image in images if image.source != image.path)
    trees = map(voc_xml.parse_annotation, xmls)
    extras = Counter(tag for tree in trees for tag in voc_xml.extra_tags(tree))
    return Contents(voc_layout.find_place(source.root, source.split).images, extras=extras)


def _splits(root: Path) -> dict[str, VocSource]:
    return {
        name: VocSource(root=folder, split=split)
        for name, (folder, split) in voc_layout.splits(root).items()
    }


FORMAT = Format(
    name="voc",
    source=VocSource,
    carries="boxes",
    layout="XML files with <annotation>",
    recognise=voc_layout.recognise,
    recognise_file=voc_layout.is_annotation_file,
    splits=_splits,
    inspect=inspect_voc,
    places=lambda source: root_places(source.root, source.split),
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
