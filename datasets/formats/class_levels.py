"""Which folders are the classes of a data set, where others lie between the splits and them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from ...detection.errors import first_few
from ..findings import Finding
from ..listing import (
    IMAGE_FOLDERS,
    SPLIT_NAMES,
    files_in,
    has_images,
    is_image_name,
    subfolders,
)


def splits_of_folder(root: Path) -> dict[str, Path]:
    """{split: the folder of its classes}; {"all": that folder} of classes without splits.

    Splits, and the classes of each, may lie deeper, each in the only folder with images in it of
    the one above; `inspect_levels` tells so.
    """
    if not root.is_dir():
        return {"all": root}
    above = _chain(root)
    for folder in above:
        if found := [folder / name for name in SPLIT_NAMES if is_split(folder / name)]:
            return _levels_of_classes({place.name: place for place in found})
    return {"all": above[-1] if folders_of_images(above[-1]) else root}


def _levels_of_classes(splits: Mapping[str, Path]) -> dict[str, Path]:
    """{split: the folder of its classes}: the first that has several folders of images, or the one
    with most classes of the split in which that folder is least deep."""
    chains = {name: _chain(place) for name, place in splits.items()}
    several = [chain for chain in chains.values() if folders_of_images(chain[-1])]
    known: set[str] = set()
    if several:
        known = {each.name for each in subfolders(min(several, key=len)[-1])}

    def fit(level: Path, chain: Sequence[Path]) -> tuple[int, bool]:
        own = chain[-1] if chain in several else chain[0]
        return len(known.intersection(each.name for each in subfolders(level))), level == own

    return {
        name: max(chain, key=lambda level, chain=chain: fit(level, chain))  # type: ignore[misc]
        for name, chain in chains.items()
    }


def _chain(folder: Path) -> list[Path]:
    """``folder``, and from each the only folder with images in it, while no images lie in it."""
    found = [folder]
    while (inside := _only_filled(found[-1])) and not images_in(inside):
        found.append(inside)
    return found


def inspect_levels(parts: Iterable[tuple[Path, str]]) -> list[Finding]:
    """Findings about parts (root, folder of classes below it) in which the classes are the folders
    in the only filled folder of a split, which may be its only class: a warning; a note without
    splits, or where it is called ``images``: rarely a class."""
    findings = []
    for root, part in dict.fromkeys(parts):
        place = root / part
        above = place.parent
        if part == "." or place.name in SPLIT_NAMES or not place.is_dir():
            continue
        if _only_filled(above) != place:
            continue
        below = above.relative_to(root).parts if above.is_relative_to(root) else ()
        in_split = any(name in SPLIT_NAMES for name in (above.name, *below))
        names = first_few([each.name for each in subfolders(place)])
        level = Path(part).parent.as_posix()
        reason = (
            f"the only folder with images in {above.name}; the folders in it are read as the "
            f"classes: {names}; if {place.name} is itself a class, write {level} for {part} "
            "in the source"
        )
        probable = in_split and place.name.lower() not in IMAGE_FOLDERS
        findings.append(Finding("nested_classes", "warning" if probable else "note", place, reason))
    return findings


def inspect_classes(classes: Sequence[Path]) -> list[Finding]:
    """A warning if folders that are read as classes have several folders of images at any depth,
    and a note on the only class if its images lie in another folder, not called ``images``."""
    levels = {place: _chain(place)[-1] for place in classes}
    nested = {level: inside for level in levels.values() if (inside := folders_of_images(level))}
    if nested:
        place, inside = next(iter(nested.items()))
        names = first_few([each.name for each in inside])
        reason = (
            f"{len(nested)} of {len(classes)} classes have their images in several folders, which "
            f"are not told apart; of {place.name}: {names}; if these are the classes, name the "
            f"folder above them: {place}"
        )
        return [Finding("nested_classes", "warning", place, reason)]
    if len(classes) == 1 and (inner := _only_filled(level := levels[classes[0]])):
        if inner.name.lower() in IMAGE_FOLDERS:
            return []
        reason = (
            f"the only class, and all its images are in {inner}; if {inner.name} is the class, "
            f"name the folder above it: {level}"
        )
        return [Finding("nested_classes", "note", classes[0], reason)]
    return []


def _only_filled(folder: Path) -> Path | None:
    """The only folder in ``folder`` with images in it, if there is one."""
    filled = list(islice(filter(has_images, subfolders(folder)), 2))
    return filled[0] if len(filled) == 1 and not images_in(folder) else None


def folders_of_images(folder: Path) -> list[Path]:
    """The folders of images in ``folder``, if they are several and no image lies beside them:
    probably classes."""
    if images_in(folder):
        return []
    found = [place for place in subfolders(folder) if has_images(place)]
    return found if len(found) > 1 else []


def is_split(folder: Path) -> bool:
    """Whether a folder is a split; a class of such a name has no subfolders."""
    return folder.name in SPLIT_NAMES and folder.is_dir() and bool(subfolders(folder))


def images_in(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(is_image_name(path.name) for path in files_in(folder))
