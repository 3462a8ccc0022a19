"""Folders of classes, and folders of images without annotations.

Layout: ``<split>/<class>/**`` or, without splits, ``<class>/**``. The class of an image is the
folder below its split; subfolders of a class have no meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...detection.config.base import NonNegative
from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..image import DEFAULT_RULES, ImageRules
from ..listing import files_in, has_images, is_image_name, subfolders, walk_files
from ..records import RawImage
from .class_levels import (
    folders_of_images,
    images_in,
    inspect_classes,
    inspect_levels,
    is_split,
    splits_of_folder,
)
from .format import Format, Inspected, Part, Reading, RootSource, checked_size, root_places

#: Files that are looked into to recognise a folder.
_PROBED = 2000
#: Extensions of annotations of single images.
_ANNOTATIONS = (".xml", ".txt", ".json")


class FolderSource(RootSource):
    """``root/<train>/<class>/**`` and ``root/<val>/<class>/**``: images in class folders."""

    format: Literal["image_folder"] = "image_folder"
    #: Folder of the training classes below ``root``.
    train: str = "train"
    #: Folder of the validation classes below ``root``.
    val: str = "val"
    #: For sets without validation images: the fraction of each class that is held out of ``train``,
    #: which may be "." for class folders in the root itself; ``val`` is then not used.
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: Seed of the random part.
    split_seed: NonNegative = 0
    #: Read every image's header before training; a million take minutes.
    headers: bool = True


class ImagesSource(RootSource):
    """A folder of images without annotations."""

    format: Literal["images"] = "images"


def inspect_image_folder(
    folder: Path, *, rules: ImageRules = DEFAULT_RULES, headers: bool = True
) -> Inspected:
    """The images of one split, by class and path, and all findings.

    Sizes come from the headers; without ``headers``, which take minutes for a million images, no
    image is opened and all sizes are (0, 0). Ids are paths below ``folder``.
    """
    if not folder.is_dir():
        return [], [Finding("missing_folder", "error", folder, "no such folder")]
    classes = subfolders(folder)
    if not classes:
        return [], [Finding("no_classes", "error", folder, "has no class folders")]
    images, findings = [], [*_beside_classes(folder), *inspect_classes(classes)]
    for place in classes:
        found, faults = _inspect_files(place, folder, rules, headers=headers)
        findings += faults
        if not has_images(place):
            reason = "the class folder has no images"
            findings.append(Finding("empty_class", "error", place, reason, place.name))
        images += [replace(image, image_class=place.name) for image in found]
    return images, findings


def _inspect_files(
    place: Path, folder: Path, rules: ImageRules, *, headers: bool = True
) -> Inspected:
    """The images below ``place``, by path; ids are paths below ``folder``."""
    files = sorted(walk_files(place))
    images, findings = [], [_stray(path) for path in files if not is_image_name(path.name)]
    for path in (each for each in files if is_image_name(each.name)):
        try:
            size = checked_size(path, None, place, rules) if headers else (0, 0)
            images.append(RawImage(path.relative_to(folder).as_posix(), path, size, (), place))
        except Fault as fault:
            findings.append(fault.finding)
    return images, findings


def compare_splits(root: Path) -> list[Finding]:
    """Classes of a split that training lacks (errors: nothing could learn them), and the reverse;
    and files beside the splits."""
    (first, trained), *others = splits_of_folder(root).items()
    known = {place.name for place in subfolders(trained)} if trained.is_dir() else set()
    findings = []
    for split, folder in others:
        names = {place.name for place in subfolders(folder)}
        for name in sorted(names - known):
            reason = f"class of {split!r} that {first!r} lacks"
            findings.append(Finding("class_not_in_train", "error", folder / name, reason, name))
        if missing := sorted(known - names):
            reason = f"{split!r} lacks {len(missing)} classes of {first!r}: {first_few(missing)}"
            findings.append(Finding("class_missing_in_split", "warning", folder, reason))
    if trained != root:
        findings += [
            _stray(path)
            for path in sorted([*files_in(root), *subfolders(root)])
            if not is_split(path) and not trained.is_relative_to(path)
        ]
    return findings


def _beside_classes(folder: Path) -> Iterator[Finding]:
    for path in files_in(folder):
        if is_image_name(path.name):
            reason = "lies beside the class folders and has no class"
            yield Finding("image_without_class", "warning", path, reason, image=path)
        else:
            yield _stray(path)


def _stray(path: Path) -> Finding:
    what = "a folder that is no split" if path.is_dir() else "not named like an image"
    return Finding("stray_file", "note", path, f"{what}, left out")


def _inspect(source: FolderSource, reading: Reading) -> Inspected:
    folder = source.root / (source.train if reading.part == "train" else source.val)
    if not folder.is_dir() and source.root.is_dir():
        reason = f"no such folder{_instead(source.root, reading.part)}"
        return [], [Finding("missing_folder", "error", folder, reason)]
    return inspect_image_folder(folder, rules=reading.rules, headers=source.headers)


def _instead(root: Path, part: Part) -> str:
    """Where the class folders are, in words."""
    found = {
        name: str(folder.relative_to(root))
        for name, folder in splits_of_folder(root).items()
        if folders_of_images(folder)
    }
    if not found:
        return ""
    if list(found) == ["all"]:
        setting = f"train: {found['all']}" + (", val_fraction: 0.2" if part == "val" else "")
        return f"; the class folders are in one folder: set {setting} of the source"
    near = [name for name in found if name.startswith(part)] or list(found)
    return f"; there are {', '.join(found.values())}: set {part}: {found[near[0]]} of the source"


def _splits(root: Path) -> dict[str, FolderSource]:
    """Each has its folder as both parts: a split is read as the part that its name says."""
    folders = {
        name: folder.relative_to(root).as_posix() for name, folder in splits_of_folder(root).items()
    }
    return {name: FolderSource(root=root, train=each, val=each) for name, each in folders.items()}


def _recognise(root: Path) -> str:
    """The first folder of images decides. Texts or XML files with the names of images are their
    annotations, and then folders are no classes."""
    images: set[str] = set()
    others: set[str] = set()
    for path in islice(walk_files(root), _PROBED):
        if is_image_name(path.name):
            images.add(path.stem)
        elif path.suffix.lower() in _ANNOTATIONS:
            others.add(path.stem)
    if images & others:
        return ""
    for folder in splits_of_folder(root).values():
        for place in subfolders(folder):
            if has_images(place):
                return f"{place.relative_to(root)} is a folder of images"
    return ""


FORMAT = Format(
    name="image_folder",
    source=FolderSource,
    carries="class",
    layout="folders of classes",
    recognise=_recognise,
    splits=_splits,
    inspect=_inspect,
    inspect_folder=lambda sources: [
        *inspect_levels([(each.root, part) for each in sources for part in (each.train, each.val)]),
        *compare_splits(sources[0].root),
    ],
    places=lambda source: root_places(source.root, source.train, source.val),
)
IMAGES = Format(
    name="images",
    source=ImagesSource,
    carries="nothing",
    layout="images",
    recognise=lambda root: "it has images" if images_in(root) else "",
    splits=lambda root: {"all": ImagesSource(root=root)},
    inspect=lambda source, reading: _inspect_files(source.root, source.root, reading.rules),
)
