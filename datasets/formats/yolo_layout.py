"""Where a YOLO folder has its images, labels and splits.

Known are ``images/<split>`` with ``labels/<split>``; ``<split>/images`` with ``<split>/labels``; a
folder ``<split>`` with images and labels side by side; ``<split>.txt``, which lists images; and the
splits that a ``data.yaml`` names, however their paths begin. Without splits, the images are in
``images`` with ``labels``, or side by side in the root or a folder of it (``obj_train_data``).
Yolo_mark has all of this in a folder of its own, ``data``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..image_file import is_file, is_folder
from ..listing import (
    SPLIT_NAMES,
    files_in,
    files_with_suffix,
    image_files,
    is_split_name,
    split_order,
    subfolders,
)
from . import yolo_names, yolo_text
from .image_names import ImageFiles

#: Label files that are looked into to recognise a folder.
_PROBED = 20


@dataclass(frozen=True)
class YoloPlace:
    """The folders of the images and labels of a split, and its list of images (None: all)."""

    images: Path
    labels: Path
    image_list: Path | None = None


def home(root: Path) -> Path:
    """``root``, or the only folder below it that has darknet's names of classes (``obj.names``) and
    a layout as above, where ``root`` itself has none."""
    if not root.is_dir() or splits(root):
        return root
    named = dict.fromkeys(path.parent for path in files_with_suffix(root, ".names"))
    homes = [folder for folder in named if splits(folder)]
    return homes[0] if len(homes) == 1 else root


def find_place(root: Path, split: str | None) -> YoloPlace:
    """Where a split is; None means all images. Raises `Fault` of kind ``missing_folder``."""
    if split is None:
        place = _whole(root)
        tried = f"tried {root / 'images'} with {root / 'labels'}, and images beside label files"
    else:
        place = _of_split(root, split)
        tried = f"tried {' and '.join(str(images) for images, _ in folders_of(root, split))}"
    if place is None:
        found = splits(root) if root.is_dir() else {}
        there = first_few(list(found)) or "none"
        if "all" in found:
            there = "none, `split: null` (without --split) takes all images"
        reason = f"no images of the split {split!r}: {tried}; there are: {there}"
        raise Fault.of("missing_folder", root, reason)
    if not place.labels.is_dir():
        raise Fault.of("missing_folder", place.labels, f"no such folder, beside {place.images}")
    return place


def folders_of(root: Path, split: str) -> list[tuple[Path, Path]]:
    """The possible (images, labels) folders of a split."""
    folders = [(root / kind / split, root / split / kind) for kind in ("images", "labels")]
    return list(zip(*folders, strict=True))


def _of_split(root: Path, split: str) -> YoloPlace | None:
    for images, labels in folders_of(root, split):
        if images.is_dir():
            return YoloPlace(images, labels)
    image_list = root / f"{split}.txt"
    if image_list.is_file():
        return _with_list(root, image_list)
    return _side_by_side(root / split) or _stated(root, split)


def _with_list(root: Path, image_list: Path) -> YoloPlace:
    """The listed images are in ``images``, or with their labels anywhere below ``root``: CVAT has a
    folder for each split."""
    if (root / "images").is_dir():
        return YoloPlace(root / "images", root / "labels", image_list)
    return YoloPlace(root, root, image_list)


def _whole(root: Path) -> YoloPlace | None:
    if (root / "images").is_dir():
        return YoloPlace(root / "images", root / "labels")
    folders = [root, *(subfolders(root) if root.is_dir() else ())]
    found = (_side_by_side(folder) for folder in folders if folder.name not in SPLIT_NAMES)
    return next(filter(None, found), None)


def _side_by_side(folder: Path) -> YoloPlace | None:
    """The folder, if images and labels are in it together."""
    if not folder.is_dir():
        return None
    names = {path.stem for path in files_in(folder) if yolo_text.is_image_name(path.name)}
    texts = (path for path in files_in(folder, ".txt") if path.stem in names)
    if any(yolo_text.is_label_file(path) for path in islice(texts, _PROBED)):
        return YoloPlace(folder, folder)
    return None


def _stated(root: Path, split: str) -> YoloPlace | None:
    """The split as ``data.yaml`` names it; its path may begin anywhere, of it the longest end that
    is below ``root`` counts, but not an end without the name of a split that the path has:
    ``../valid/images`` is not ``images``."""
    parts = PurePosixPath(yolo_names.stated_splits(root).get(split, "").replace("\\", "/")).parts
    for start in range(len(parts)):
        path = root / PurePosixPath(*parts[start:])
        if any(map(is_split_name, parts)) and not any(map(is_split_name, parts[start:])):
            return None
        if ".." in parts[start:]:
            continue
        if is_folder(path):
            return YoloPlace(path, _labels_of(path, root))
        if is_file(path) and path.suffix == ".txt":
            return _with_list(root, path)
    return None


def _labels_of(images: Path, root: Path) -> Path:
    """The folder of the same path with its last ``images`` replaced by ``labels``, or, where there
    is none, the only one beside it whose name has the split's in it (``train-labels``)."""
    parts = list(images.relative_to(root).parts)
    for index in reversed(range(len(parts))):
        if parts[index].lower() == "images":
            labels = root.joinpath(*parts[:index], "labels", *parts[index + 1 :])
            around = subfolders(labels.parent) if labels.parent.is_dir() else []
            similar = [path for path in around if images.name in path.name]
            return similar[0] if len(similar) == 1 and not labels.is_dir() else labels
    return images


def splits(root: Path) -> dict[str, str | None]:
    """{name: split} of a folder, training first; {"all": None} if it has no splits, {} if it is not
    a YOLO folder."""
    inside = subfolders(root / "images") if (root / "images").is_dir() else []
    beside = subfolders(root)
    named = {path.name for path in inside if (root / "labels" / path.name).is_dir()}
    named |= {
        path.name for path in beside if (path / "images").is_dir() and (path / "labels").is_dir()
    }
    named |= {path.name for path in beside if path.name in SPLIT_NAMES and _side_by_side(path)}
    named |= {path.stem for path in _lists(root)}
    if not any(map(is_split_name, named)):
        stated = {split for split in yolo_names.stated_splits(root) if _stated(root, split)}
        named = stated or named
    if named:
        return {name: name for name in sorted(named, key=split_order)}
    whole = _whole(root)
    return {"all": None} if whole and whole.labels.is_dir() else {}


def _lists(root: Path) -> list[Path]:
    texts = (path for path in files_in(root) if path.suffix == ".txt")
    return [path for path in texts if yolo_text.is_image_list(path)]


def recognise(root: Path) -> str:
    """Why the folder is taken for YOLO, "" if it is not."""
    folder = home(root)
    for split in splits(folder).values():
        try:
            place = find_place(folder, split)
        except Fault:
            continue
        texts = list(islice(files_with_suffix(place.labels, ".txt"), _PROBED))
        found = next(filter(yolo_text.is_label_file, texts), None)
        if found:
            return f"{found.relative_to(root)} is a YOLO label file"
        empty = next((path for path in texts if path.stat().st_size == 0), None)
        if empty and yolo_names.stated_splits(folder):  # images without objects only
            return f"{empty.relative_to(root)} is an empty label file of a split in the YAML file"
    return ""


# ---------------------------------------------------------------------------------- files


def image_paths(folder: Path, *, needed: bool = True) -> dict[str, list[Path]]:
    """Images by their path below ``folder`` without suffix; raises `Fault` if there are none, but
    are ``needed``."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in image_files(folder):
        found[_key(path, folder)].append(path)
    if not found and needed:
        raise Fault.of("no_images", folder, "has no images")
    return dict(sorted(found.items()))


def label_paths(folder: Path) -> dict[str, Path]:
    """Texts by their path below ``folder`` without suffix, but for lists and names of classes."""
    files = sorted(files_with_suffix(folder, ".txt"))
    return {_key(path, folder): path for path in files if not yolo_text.is_other_text(path)}


def pair_by_name(
    texts: Mapping[str, Path], files: Mapping[str, list[Path]], images: Path
) -> tuple[dict[str, Path], list[Finding]]:
    """``texts`` under the names of their images, and a note about those with other names."""
    known = {found: name for name, paths in files.items() for found in paths}
    resolve = ImageFiles(images)
    paired = {name: path for name, path in texts.items() if name in files}
    for name in texts.keys() - paired.keys():
        try:
            image = resolve.find(name, texts[name])
        except Fault:
            image = None
        fits = image is not None and known.get(image, name) not in paired
        paired[known[image] if image in known and fits else name] = texts[name]
    return paired, resolve.notes(images)


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def listed_images(
    path: Path, resolve: ImageFiles, files: Mapping[str, list[Path]]
) -> tuple[dict[str, list[Path]], list[Finding]]:
    """The images that a list names (``./images/a.jpg``), those of ``files`` by the names that they
    have there, and findings."""
    known = {found: name for name, paths in files.items() for found in paths}
    wanted: dict[str, list[Path]] = {}
    findings = []
    for line in yolo_text.read_lines(path):
        try:
            image = path.parent / line
            if image not in known:
                image = resolve.find(line, path, line)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        name = known.get(image, image.with_suffix("").as_posix())
        if name in wanted:
            findings.append(Finding("listed_twice", "error", path, "is listed twice", line))
        else:
            wanted[name] = [image]
    if not wanted and not findings:
        findings.append(Finding("empty_image_set", "error", path, "lists no images"))
    return dict(sorted(wanted.items())), [*findings, *resolve.notes(path)]


def labels_outside(
    files: Mapping[str, list[Path]],
    folder: Path,
    texts: Mapping[str, Path],
    inside: Mapping[str, list[Path]],
) -> dict[str, Path]:
    """{name: label file} of images outside of ``folder``: in the folder ``labels`` in place of
    their ``images``, beside them, or the only one of ``texts`` with their name that belongs to no
    image ``inside`` the folder."""
    own = defaultdict(list)
    for name, path in texts.items():
        if name not in inside:
            own[path.stem].append(path)
    found: dict[str, Path] = {}
    for name, (image, *_) in files.items():
        if image.is_relative_to(folder):
            continue
        text = image.with_suffix(".txt")
        before, images, after = str(text).rpartition("/images/")
        places = [Path(f"{before}/labels/{after}"), text] if images else [text]
        same = own[image.stem]
        labels = [path for path in places if path.is_file()] + same * (len(same) == 1)
        found.update((name, path) for path in labels[:1])
    return found
