"""The boxes of ILSVRC CLS-LOC, classification and localization.

Layout: ``Data/CLS-LOC/train/<wnid>/<id>.JPEG`` and ``Data/CLS-LOC/val/<id>.JPEG``, XML under the
same names in ``Annotations/CLS-LOC``, lists in ``ImageSets/CLS-LOC``, the classes' names in
``LOC_synset_mapping.txt`` and, for val, its classes and boxes in ``LOC_val_solution.csv``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ...detection.errors import first_few
from ..coordinates import check_coordinates
from ..findings import Fault, Finding
from ..listing import files_in, is_image_name, subfolders
from ..records import RawImage, RawObject
from .format import Inspected, Part, Reading, checked_size, fit_to_image
from .ilsvrc_files import Row, read_list, read_mapping, read_solution
from .ilsvrc_layout import NAMES, SOLUTION, IlsvrcSource, task_folder
from .values import Values
from .voc_xml import claimed_size, parse_annotation, read_objects

#: Lists of the training images: all of them, and those with boxes.
_TRAIN_LISTS = ("train_cls", "train_loc")


def inspect_boxes(source: IlsvrcSource, reading: Reading) -> Inspected:
    """The usable images of a split, in the order of its list, and all findings.

    An image's ``image_class`` (a wnid) is its folder in train, and in val what the solution file
    says; its objects are those of its XML. Training images without XML have no objects.
    """
    root, part = source.root, reading.part
    mapping, findings = read_mapping(root / NAMES)
    split = _Split(source, part, mapping, reading)
    listed = list_path(root, part)
    ids, faults = read_list(listed)
    findings += faults
    solution: dict[str, list[Row]] = {}
    if part == "val":
        solution, faults = read_solution(root / SOLUTION)
        findings += faults + split.compare_solution(ids, solution)
    files = split.files("Data", lambda path: is_image_name(path.name))
    xmls = split.files("Annotations", lambda path: path.suffix == ".xml")
    findings += split.compare_folder(listed, ids, files, xmls)
    images = []
    for image_id in ids:
        if image_id in files:
            try:
                image, faults = split.image(
                    image_id, files[image_id], xmls.get(image_id), solution.get(image_id)
                )
            except Fault as fault:
                findings.append(fault.finding)
                continue
            images.append(image)
            findings += faults
    findings += split.unknown_classes(images) + split.values.notes(listed)
    return images, findings + check_coordinates(images, source.coordinates)


def list_path(root: Path, split: Part) -> Path:
    """The list of a split's images."""
    folder = task_folder(root, "ImageSets")
    names = ("val",) if split == "val" else _TRAIN_LISTS
    paths = [folder / f"{name}.txt" for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


@dataclass(frozen=True)
class _Split:
    """A split with its reading options. ``mapping`` is {wnid: names}."""

    source: IlsvrcSource
    split: Part
    mapping: dict[str, str]
    reading: Reading
    values: Values = field(default_factory=lambda: Values(texts=True))

    def folder(self, kind: str) -> Path:
        return task_folder(self.source.root, kind) / self.source.folder(self.split)

    def files(self, kind: str, wanted: Callable[[Path], bool]) -> dict[str, Path]:
        """{id as in the lists: file}; ids of train begin with the class's folder."""
        folder = self.folder(kind)
        classes = self.split == "train" and folder.is_dir()
        places = subfolders(folder) if classes else [folder]
        paths = (path for place in places for path in files_in(place) if wanted(path))
        return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}

    # ------------------------------------------------------------------------ lists

    def compare_solution(self, ids: list[str], solution: dict[str, list[Row]]) -> list[Finding]:
        if not solution:
            return []  # the file has findings already
        path = self.source.root / SOLUTION
        listed = set(ids)
        findings = [
            Finding("missing_solution", "error", path, "has no row for this image", name)
            for name in ids
            if name not in solution
        ]
        if extra := [name for name in solution if name not in listed]:
            reason = f"{len(extra)} rows of images that val.txt does not list: {first_few(extra)}"
            findings.append(Finding("unlisted_solution", "warning", path, reason))
        return findings

    def compare_folder(
        self, listed: Path, ids: list[str], images: dict[str, Path], xmls: dict[str, Path]
    ) -> list[Finding]:
        folder = self.folder("Data")
        findings = [
            Finding("missing_image", "error", listed, f"no image in {folder}", name)
            for name in ids
            if name not in images
        ]
        if unlisted := sorted(images.keys() - set(ids)):
            reason = f"{len(unlisted)} images of {folder} are not listed: {first_few(unlisted)}"
            findings.append(Finding("unlisted_image", "warning", listed, reason))
        for name in sorted(xmls.keys() - images.keys()):
            reason = "has no image"
            findings.append(Finding("orphan_annotation", "warning", xmls[name], reason))
        return findings

    def unknown_classes(self, images: list[RawImage]) -> list[Finding]:
        """One finding per class, at its first image."""
        if not self.mapping:
            return []
        used = [
            (name, image)
            for image in images
            for name in {image.image_class, *(obj.name for obj in image.objects)}
            if name is not None and name not in self.mapping
        ]
        first = dict(reversed(used))
        counts = Counter(name for name, _ in used)
        return [
            Finding(
                "unknown_class",
                "error",
                image.source,
                f"not in LOC_synset_mapping.txt ({counts[name]} images)",
                name,
                image.path,
            )
            for name, image in sorted(first.items())
        ]

    # ------------------------------------------------------------------------ one image

    def image(
        self, image_id: str, path: Path, xml: Path | None, rows: list[Row] | None
    ) -> tuple[RawImage, list[Finding]]:
        """The image and its findings; raises `Fault` if it cannot be used."""
        if self.split == "train":
            image_class: str | None = image_id.partition("/")[0]
        else:
            image_class = rows[0][0] if rows else None
        if xml is None:
            source = path.parent
            size = checked_size(path, None, source, self.reading.rules)
            image = RawImage(image_id, path, size, (), source, image_class)
            return image, self._without_xml(image_id, path)
        tree = parse_annotation(xml)
        objects, _, findings = read_objects(
            tree, xml, self.source.coordinates, "include", self.values
        )
        image = RawImage(image_id, path, (0, 0), tuple(objects), xml, image_class)
        claimed = claimed_size(tree, xml, self.values)
        image, sizes = fit_to_image(image, claimed, self.reading, object="<size>")
        findings += sizes + _check_objects(image, required=not self._lists_unboxed)
        if rows is not None:
            written, *_ = read_objects(tree, xml, "zero_based", "include", Values(texts=True))
            findings += _compare_rows(image, written, rows)
        return image, [replace(finding, image=path) for finding in findings]

    @cached_property
    def _lists_unboxed(self) -> bool:
        """Whether the list contains images without boxes, as the one for classification does."""
        return list_path(self.source.root, self.split).stem == "train_cls"

    def _without_xml(self, image_id: str, image: Path) -> list[Finding]:
        if self._lists_unboxed:
            return []
        folder = self.folder("Annotations")
        reason = f"no annotation in {folder}"
        return [Finding("missing_annotation", "error", image, reason, image_id, image)]


def _check_objects(image: RawImage, *, required: bool) -> list[Finding]:
    names = sorted({obj.name for obj in image.objects})
    if len(names) > 1:
        reason = f"objects of several classes: {', '.join(names)}"
        return [Finding("several_classes", "error", image.source, reason)]
    if image.image_class is not None and names not in ([], [image.image_class]):
        reason = f"the object is {names[0]}, the image {image.image_class}"
        return [Finding("other_class", "error", image.source, reason)]
    if not names and required:
        return [Finding("image_without_box", "error", image.source, "the image has no box")]
    if not names:
        return [Finding("no_objects_in_image", "warning", image.source, "has no usable object")]
    if len(image.objects) > 1:
        reason = f"{len(image.objects)} objects of {names[0]}; most images have one"
        return [Finding("several_objects", "note", image.source, reason)]
    return []


def _compare_rows(image: RawImage, written: list[RawObject], rows: list[Row]) -> list[Finding]:
    """Compare the boxes of the solution file with those of the XML, both as written."""
    if sorted((obj.name, obj.box) for obj in written) == sorted(rows):
        return []
    reason = (
        f"{_show([(obj.name, obj.box) for obj in written])}, LOC_val_solution.csv {_show(rows)}"
    )
    return [Finding("solution_mismatch", "warning", image.source, reason)]


def _show(rows: list[Row]) -> str:
    return first_few([f"{name} {' '.join(f'{side:g}' for side in box)}" for name, box in rows], 3)
