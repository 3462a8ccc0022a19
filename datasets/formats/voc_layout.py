"""Where a VOC folder has its images, annotations and lists of images.

PASCAL VOC as published has ``JPEGImages/<id>.*``, ``Annotations/<id>.xml`` and
``ImageSets/Main/<split>.txt``. Annotation tools export other names (``images``, ``annotations``),
XML files beside the images, subfolders, and folders ``train`` and ``valid`` instead of lists.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...detection.errors import first_few
from ...detection.files import expect_regular, read_limited
from ..findings import Fault
from ..listing import (
    IMAGE_FOLDERS,
    SPLIT_NAMES,
    files_in,
    files_with_suffix,
    is_image_name,
    split_order,
    subfolders,
    walk_files,
)
from ..text import NotUtf8, utf8_text

_LARGEST_LIST = 2**28
_LISTS = Path("ImageSets", "Main")
_XML_FOLDERS = ("annotations", "annots", "annotation", "xmls", "xml", "labels")
#: Lines of the devkit's image sets of one class end with -1, 0 or 1 (presence) ...
_PRESENCE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
#: ... and those of one action have the number of a person before it.
_PERSON = re.compile(r"^(.*\S)\s+\d+$")
#: The paths of an image and of its annotation in one line.
_TWO_PATHS = re.compile(r"^(\S.*\.\w+)\s+\S.*\.xml$", re.IGNORECASE)
#: Encodings of lists that are not UTF-8; one is used if every line then is an image of the folder.
_ENCODINGS = ("gb18030", "shift_jis", "euc_kr", "big5", "cp1252")
#: Files that are looked into to recognise a folder.
_PROBED = 20


@dataclass(frozen=True)
class VocPlace:
    """The folders of the images and the annotations of a split, and its list (None: all)."""

    images: Path
    annotations: Path
    image_set: Path | None = None


def find_place(root: Path, split: str | None) -> VocPlace:
    """Where the images of a split are: in a list, in a folder of the split, or in ``root``;
    ``VOC2012_train`` is ``train`` of the folder ``VOC2012``.

    Raises `Fault` of kind ``missing_folder`` or ``missing_image_set``.
    """
    if not root.is_dir():
        raise Fault.of("missing_folder", root, "no such folder")
    whole = _folders(root)
    if split is None:
        return whole
    listed = set_path(root, split)
    if listed.is_file():
        return VocPlace(whole.images, whole.annotations, listed)
    if (root / split).is_dir():
        return _folders(root / split)
    if (whole.annotations / split).is_dir():
        images = whole.images / split
        return VocPlace(images if images.is_dir() else whole.images, whole.annotations / split)
    found = splits(root)
    if split in found and found[split][0] != root:
        return find_place(*found[split])
    there = [name for name, (_, split) in found.items() if split is not None]
    reason = (
        f"no such image set; there are: {first_few(there) or 'none'}. `split: null` (without "
        f"--split) takes all images, `resdet split {root} --from voc --parts train=0.8 val=0.2` "
        "makes image sets"
    )
    raise Fault.of("missing_image_set", listed, reason)


def _folders(root: Path) -> VocPlace:
    """The folders of images and XML files in ``root``, by their usual names, else ``root``."""
    names = {path.name.lower(): path for path in reversed(subfolders(root))}
    images = next((names[name] for name in IMAGE_FOLDERS if name in names), root)
    xmls = next((names[name] for name in _XML_FOLDERS if name in names), None)
    if xmls is None:  # beside the images
        xmls = images if _has_xml(images) else root
    return VocPlace(images, xmls)


def set_path(root: Path, split: str) -> Path:
    """The list of an image set."""
    return root / _LISTS / f"{split}.txt"


def image_sets(root: Path) -> list[str]:
    """Names of all image sets of the folder, sorted."""
    return [path.stem for path in files_in(root / _LISTS) if path.suffix == ".txt"]


def splits(root: Path) -> dict[str, tuple[Path, str | None]]:
    """{name: (folder, split)} of the sources in a folder: its image sets, or its folders of splits;
    {"all": (root, None)} if it has neither. Folders with several years are taken together."""
    years = [path for path in subfolders(root) if (path / "JPEGImages").is_dir()]
    if years:
        return {
            f"{year.name}_{name}": place for year in years for name, place in splits(year).items()
        }
    if image_sets(root):
        return {name: (root, name) for name in _disjoint_sets(root)}
    places = (root, _folders(root).annotations)
    named = [
        name
        for name in SPLIT_NAMES
        if any(_has_xml(place / name) for place in places if (place / name).is_dir())
    ]
    return {name: (root, name) for name in named} or {"all": (root, None)}


def _disjoint_sets(root: Path) -> list[str]:
    """The image sets that together contain every image once.

    Left out are sets of one class (``dog_train`` beside ``train``) and unions of smaller ones
    (``trainval``); ``train`` comes first.
    """
    names = image_sets(root)
    names = [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]
    known = set(image_paths(_folders(root).images))
    members: dict[str, set[str]] = {}
    for name in names:
        try:
            members[name] = set(listed_ids(set_path(root, name), known))
        except Fault:  # stays, and is reported when it is read
            members[name] = {f"unreadable {name}"}

    def is_union(name: str) -> bool:
        smaller = [ids for ids in members.values() if len(ids) < len(members[name])]
        return members[name] <= set().union(*smaller)

    parts = [name for name in names if not is_union(name)]
    return sorted(parts, key=split_order)


def recognise(root: Path) -> str:
    """Why the folder is taken for VOC, "" if it is not."""
    if (root / "JPEGImages").is_dir():
        return "it has JPEGImages"
    xmls = islice(files_with_suffix(root, ".xml"), _PROBED)
    found = next(filter(_is_annotation, xmls), None)
    return f"{found.relative_to(root)} is a VOC annotation" if found else ""


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def _has_xml(folder: Path) -> bool:
    return any(files_with_suffix(folder, ".xml"))


def is_annotation_file(path: Path) -> bool:
    """Whether a file is the annotation of one image."""
    return _is_xml(path) and _is_annotation(path)


def _is_annotation(path: Path) -> bool:
    """Whether ``<annotation`` is near the beginning, in an encoding with ASCII tags or UTF-16."""
    try:
        expect_regular(path)
        with path.open("rb") as file:
            start = file.read(500).replace(b"\0", b"")
    except OSError:
        return False
    return re.search(rb"<annotation[\s>/]", start) is not None


# ---------------------------------------------------------------------------------- files


def image_paths(folder: Path) -> dict[str, list[Path]]:
    """Images by their path below ``folder`` without suffix; other files (`.json`, `.txt`) only if
    there is no image of the name."""
    if not folder.is_dir():
        raise Fault.of("missing_folder", folder, "no such folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(walk_files(folder)):
        if not _is_xml(path):
            found[_key(path, folder)].append(path)
    for key, paths in found.items():
        found[key] = [path for path in paths if is_image_name(path.name)] or paths
    return dict(found)


def xml_paths(folder: Path) -> dict[str, Path]:
    """XML files by their path below ``folder`` without suffix."""
    if not folder.is_dir():
        return {}
    return {_key(path, folder): path for path in sorted(files_with_suffix(folder, ".xml"))}


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


# ---------------------------------------------------------------------------------- lists


def listed_ids(path: Path, names: Set[str]) -> list[str]:
    """The ids of an image set. Lines may have an extension, folders, or further columns; an id that
    is not among ``names`` is returned as it is written. Raises `Fault`."""
    try:
        data = read_limited(path, _LARGEST_LIST)
    except OSError as error:
        raise Fault.of("unreadable_image_set", path, f"cannot be read ({error})") from error
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    first = "utf-16" if wide else "utf-8-sig"
    if certain := _decoded(data, first, names) or _first_decoded(data, names):
        return certain
    try:
        ids = _ids(data.decode(first) if wide else utf8_text(data), names)
    except (NotUtf8, UnicodeDecodeError) as error:
        raise Fault.of("unreadable_image_set", path, f"cannot be read ({error})") from error
    if not ids:
        raise Fault.of("empty_image_set", path, "lists no images")
    return ids


def _first_decoded(data: bytes, names: Set[str]) -> list[str]:
    found = (_decoded(data, encoding, names) for encoding in _ENCODINGS)
    return next(filter(None, found), []) if not data.isascii() else []


def _decoded(data: bytes, encoding: str, names: Set[str]) -> list[str]:
    """The ids in this encoding if all of them are known, else none."""
    try:
        ids = _ids(data.decode(encoding), names)
    except UnicodeDecodeError:
        return []
    return ids if names >= set(ids) else []


def _ids(text: str, names: Set[str]) -> list[str]:
    return [_image_id(line.strip(), names) for line in text.splitlines() if line.strip()]


def _image_id(line: str, names: Set[str]) -> str:
    """The longest end of the path in a line that is the name of an image."""
    if line in names:
        return line
    if flagged := _PRESENCE.match(line):  # a class's or an action's image set
        name = flagged.group(1)
        person = _PERSON.match(name)
        return person.group(1) if person and name not in names else name
    if two := _TWO_PATHS.match(line):
        line = two.group(1)
    for parts in (PurePosixPath(line).parts, PureWindowsPath(line).parts):
        for start in range(len(parts)):
            end = PurePosixPath(*parts[start:])
            found = next((key for key in (str(end), _without_suffix(end)) if key in names), None)
            if found:
                return found
    return line


def _without_suffix(path: PurePosixPath) -> str:
    return str(path.with_suffix("")) if is_image_name(path.name) or path.suffix == ".xml" else ""
