"""Tiny ImageNet as distributed.

``train/<wnid>/images`` has the training images of a class, ``val/images`` the validation images,
whose classes are in ``val/val_annotations.txt``, and ``wnids.txt`` lists the classes. The images of
``test`` have no published classes. Boxes, in ``<wnid>_boxes.txt`` and in the list, are not used.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..listing import files_in, folder_with, is_image_name
from ..records import RawImage
from .format import Format, Inspected, Reading, RootSource, checked_size
from .ilsvrc_files import TextLines
from .image_folder import inspect_image_folder

_WNIDS, _ANSWERS = "wnids.txt", "val_annotations.txt"


class TinyImagenetSource(RootSource):
    """Tiny ImageNet: the folder ``tiny-imagenet-200`` or the one that has it. Classes are wnids."""

    format: Literal["tiny_imagenet"] = "tiny_imagenet"
    #: Read every image's header before training.
    headers: bool = True


def inspect_tiny_imagenet(source: TinyImagenetSource, reading: Reading) -> Inspected:
    """The images of a part with their wnids, and all findings. A ``val`` that was sorted into
    folders of classes is read as such."""
    root = _home(source.root) or source.root
    folder = root / reading.part
    if reading.part == "val" and (folder / _ANSWERS).is_file():
        images, findings = _flat(folder, reading, headers=source.headers)
    else:
        images, faults = inspect_image_folder(folder, rules=reading.rules, headers=source.headers)
        findings = [each for each in faults if not each.file.name.endswith("_boxes.txt")]
    return images, findings + _compare_classes(root / _WNIDS, images)


def _flat(folder: Path, reading: Reading, *, headers: bool) -> Inspected:
    """The images of ``val/images`` in the order of the list of their classes."""
    answers = folder / _ANSWERS
    lines = TextLines(answers)
    files = {path.name: path for path in files_in(folder / "images") if is_image_name(path.name)}
    images, findings, listed = [], [], Counter[str]()
    for line, text in lines:
        name, *rest = text.split("\t") if "\t" in text else text.split()
        listed[name] += 1
        try:
            if not rest or not rest[0].strip():
                reason = f"{text!r:.80}: expected an image and its class"
                lines.bad(line, reason)
            elif listed[name] > 1:
                reason = f"line {line}: is listed already"
                raise Fault.of("listed_twice", answers, reason, object=name)
            elif name not in files:
                reason = f"line {line}: no such image in {folder / 'images'}"
                raise Fault.of("missing_image", answers, reason, object=name)
            else:
                path = files[name]
                size = checked_size(path, None, answers, reading.rules) if headers else (0, 0)
                images.append(RawImage(name, path, size, (), answers, rest[0].strip()))
        except Fault as fault:
            findings.append(fault.finding)
    if without := [name for name in files if name not in listed]:
        reason = f"{len(without)} images have no class here: {first_few(without)}"
        findings.append(Finding("missing_annotation", "error", answers, reason))
    return images, [*findings, *lines.findings]


def _compare_classes(path: Path, images: list[RawImage]) -> list[Finding]:
    """Classes that are not in the list of classes, at their first image, and the reverse."""
    lines = TextLines(path)
    wnids = {text.strip() for _, text in lines}
    first = {image.image_class or "": image for image in reversed(images)}
    findings = [
        Finding(
            "unknown_class",
            "error",
            image.source,
            f"first at {image.path.name}, is not in {path}",
            wnid,
        )
        for wnid, image in first.items()
        if wnids and wnid not in wnids
    ]
    if images and (missing := sorted(wnids - first.keys())):
        reason = f"no images of {len(missing)} of its classes: {first_few(missing)}"
        findings.append(Finding("class_missing_in_split", "warning", path, reason))
    return findings + lines.findings


def _home(root: Path) -> Path | None:
    home = folder_with(root, _WNIDS)
    return home if home and (home / "train").is_dir() else None


def _recognise(root: Path) -> str:
    home = _home(root)
    where = "" if home == root or home is None else f" in {home.name}"
    return f"{_WNIDS}{where} lists the classes of Tiny ImageNet, beside train" if home else ""


def _splits(root: Path) -> dict[str, TinyImagenetSource]:
    home = _home(root)
    there = (name for name in ("train", "val") if home and (home / name).is_dir())
    return {name: TinyImagenetSource(root=home) for name in there if home}


FORMAT = Format(
    name="tiny_imagenet",
    source=TinyImagenetSource,
    carries="class",
    layout="wnids.txt of Tiny ImageNet",
    recognise=_recognise,
    splits=_splits,
    inspect=inspect_tiny_imagenet,
)
