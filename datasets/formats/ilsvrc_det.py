"""ILSVRC DET, object detection, as distributed.

Layout: ``Data/DET/train/<folder>/**.JPEG`` and ``Data/DET/val/<id>.JPEG``, XML under the same names
in ``Annotations/DET``, lists in ``ImageSets/DET``. Objects are named by synset ids, which become
the names of the development kit.

The training images are those of ``train.txt`` or, as distributed by Kaggle, of ``train_1.txt`` to
``train_200.txt``, one list for each class with 1 (present), 0 (some objects annotated) or -1
(absent) after each image. Negative images, in which some classes are known to be absent, have no
XML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..coordinates import Coordinates, check_coordinates
from ..findings import Finding
from ..image_file import is_file
from ..records import RawImage
from .format import Format, Inspected, Reading, RootSource
from .ilsvrc_det_classes import DET_CLASSES
from .ilsvrc_files import TextLines
from .xml_pairs import Pair, read_pairs

#: {image: the numbers after it in the lists}.
_Listed = dict[str, set[int]]


class IlsvrcDetSource(RootSource):
    """ILSVRC DET as distributed, below ``root``: ``Data/DET``, ``Annotations/DET`` and
    ``ImageSets/DET``."""

    format: Literal["ilsvrc_det"] = "ilsvrc_det"
    #: ``train`` or ``val``.
    split: Literal["train", "val"]
    #: A file that lists the images of ``split`` to take, such as those of val1 or val2, in place of
    #: the lists in ``ImageSets/DET``.
    list_file: Path | None = None
    #: Whether images without XML are used, as images without objects.
    negatives: bool = True
    #: As in PASCAL VOC.
    coordinates: Coordinates = "one_based"

    @property
    def title(self) -> str:
        return f"{self.root}: {self.list_file or self.split}"


def inspect_ilsvrc_det(source: IlsvrcDetSource, reading: Reading) -> Inspected:
    """The usable images, in the order of the lists, and all findings."""
    listed, findings = _read_lists(list_files(source))
    pairs: list[Pair] = []
    without: list[str] = []
    for image_id, numbers in listed.items():
        image, xml = (
            source.root / kind / "DET" / source.split / f"{image_id}{suffix}"
            for kind, suffix in (("Data", ".JPEG"), ("Annotations", ".xml"))
        )
        if not is_file(image):
            place = list_files(source)[0]
            findings.append(Finding("missing_image", "error", place, f"no {image}", image_id))
        elif is_file(xml):
            pairs.append((image_id, image, xml))
        elif not _is_negative(image_id, numbers):
            reason = f"no annotation {xml}"
            findings.append(Finding("missing_annotation", "error", image, reason, image_id, image))
        else:
            without.append(image_id)
            pairs += [(image_id, image, None)] if source.negatives else []
    if without and not source.negatives:
        reason = f"{len(without)} negative images are left out (negatives: false)"
        reason = f"{reason}: {first_few(without)}"
        findings.append(Finding("image_without_box", "warning", list_files(source)[0], reason))
    images, faults = read_pairs(pairs, source.coordinates, reading, list_files(source)[0])
    images = [_with_names(image, DET_CLASSES) for image in images]
    return images, findings + faults + check_coordinates(images, source.coordinates)


def list_files(source: IlsvrcDetSource) -> list[Path]:
    """The lists of a source's images; the first one may not exist."""
    if source.list_file is not None:
        return [source.list_file]
    folder = source.root / "ImageSets" / "DET"
    whole = folder / f"{source.split}.txt"
    numbered = {
        int(path.stem.rpartition("_")[2]): path
        for path in folder.glob(f"{source.split}_*.txt")
        if path.stem.rpartition("_")[2].isdecimal()
    }
    if whole.is_file() or not numbered:
        return [whole]
    return [numbered[number] for number in sorted(numbered)]


def _read_lists(paths: list[Path]) -> tuple[_Listed, list[Finding]]:
    """The images of all lists, each once; lines are ``ILSVRC2012_val_00000001 1``."""
    listed: _Listed = {}
    findings: list[Finding] = []
    for path in paths:
        lines = TextLines(path)
        here: dict[str, int] = {}
        for number, line in lines:
            name, *rest = line.split()
            if len(rest) > 1 or not all(word.removeprefix("-").isdecimal() for word in rest):
                lines.bad(number, f"{line!r:.80}: expected an image and a number")
            elif name in here:
                reason = f"line {number}: is there already in line {here[name]}"
                lines.findings.append(Finding("listed_twice", "error", path, reason, name))
            else:
                here[name] = number
                listed.setdefault(name, set()).update(map(int, rest))
        findings += lines.findings
    if not listed and not findings:
        findings.append(Finding("empty_image_set", "error", paths[0], "lists no images"))
    return listed, findings


def _is_negative(image_id: str, numbers: set[int]) -> bool:
    """Whether all classes that the lists have for an image are absent from it."""
    return numbers == {-1} or "_extra" in image_id.partition("/")[0]


def _with_names(image: RawImage, names: Mapping[str, str]) -> RawImage:
    """The objects under the names of their classes; unknown synset ids stay."""
    objects = (replace(obj, name=names.get(obj.name, obj.name)) for obj in image.objects)
    return replace(image, objects=tuple(objects))


def _splits(root: Path) -> dict[str, IlsvrcDetSource]:
    """The splits with annotations that have a folder of images."""
    names: tuple[Literal["train", "val"], ...] = ("train", "val")
    return {
        name: IlsvrcDetSource(root=root, split=name)
        for name in names
        if (root / "Data" / "DET" / name).is_dir()
    }


FORMAT = Format(
    name="ilsvrc_det",
    source=IlsvrcDetSource,
    carries="boxes",
    layout="Data/DET",
    recognise=lambda root: "it has Data/DET" if (root / "Data" / "DET").is_dir() else "",
    splits=_splits,
    inspect=inspect_ilsvrc_det,
)
