"""What kind of data set lies in this folder, and what are its splits?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ...detection.errors import ConfigError
from ..checks.check import Content, DataSet, Inspection
from ..checks.statistics import Anchors
from ..coordinates import Coordinates
from ..findings import Finding
from ..image import DEFAULT_RULES, IMAGE_SUFFIXES, ImageRules
from .cls_loc import cls_loc_splits, inspect_cls_loc
from .coco import compare_categories, inspect_coco, inspect_coco_folder
from .image_folder import (
    compare_image_folders,
    image_folder_splits,
    inspect_image_folder,
    inspect_images,
)
from .voc import disjoint_sets, inspect_voc, inspect_voc_folder

#: ``images``: nothing is annotated.
Layout = Literal["voc", "coco", "image-folder", "cls-loc", "images"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

#: What exporters call the JSON that they leave in each split's folder of images.
_EXPORTED_JSON = "_annotations.coco.json"


def recognise(root: Path) -> Layout:
    """The layout of a folder; raises ConfigError saying what was looked for."""
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    if (root / "JPEGImages").is_dir():
        return "voc"
    if (root / "Data" / "CLS-LOC").is_dir():
        return "cls-loc"
    if _coco_parts(root):
        return "coco"
    if any(path.is_dir() for path in root.iterdir()):
        return "image-folder"
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in root.iterdir()):
        return "images"
    raise ConfigError(
        f"{root}: neither JPEGImages (voc), nor annotations/instances_*.json (coco; --annotations "
        "names another file), nor Data/CLS-LOC (cls-loc), nor folders of classes (image-folder), "
        "nor images"
    )


def data_set(
    root: Path,
    layout: Layout,
    *,
    annotations: Sequence[Path] = (),
    coordinates: Coordinates = "one_based",
    classes: tuple[str, ...] | None = None,
    rules: ImageRules = DEFAULT_RULES,
    anchors: Anchors | None = None,
    workers: int = 0,
) -> DataSet:
    """Everything in the folder. ``annotations`` are COCO JSONs of images in ``root``; ``workers``
    processes read VOC annotations."""
    splits: dict[str, Sequence[Inspection]]
    folders: list[Callable[[], list[Finding]]] = []
    content: Content = "boxes"
    if layout == "voc":
        read_set = partial(inspect_voc, root, coordinates=coordinates, rules=rules, workers=workers)
        names = disjoint_sets(root)
        splits = {name: [partial(read_set, name)] for name in names}
        splits = splits or {"all": [partial(read_set, None)]}
        folders = [partial(inspect_voc_folder, root)]
    elif layout == "coco":
        parts = _named_parts(root, annotations) or _coco_parts(root)
        splits = {
            name: [partial(inspect_coco, images, path, rules=rules)]
            for name, (images, path) in parts.items()
        }
        folders = coco_folder_checks(list(parts.values()))
    elif layout == "cls-loc":
        read_split = partial(inspect_cls_loc, root, coordinates=coordinates, rules=rules)
        splits = {name: [partial(read_split, name)] for name in cls_loc_splits(root)}
    elif layout == "images":
        content = "nothing"
        splits = {"all": [partial(inspect_images, root, rules=rules)]}
    else:
        content = "classes"
        splits = {
            name: [partial(inspect_image_folder, folder, rules=rules)]
            for name, folder in image_folder_splits(root).items()
        }
        folders = [partial(compare_image_folders, root)]
    if not splits:
        raise ConfigError(f"{root}: no {layout} annotations; --annotations FILE names them")
    if content != "boxes":
        anchors = None
    return DataSet(root, splits, folders, classes, rules=rules, anchors=anchors, content=content)


def coco_folder_checks(
    sources: Sequence[tuple[Path, Path]],
) -> list[Callable[[], list[Finding]]]:
    """What (folder of images, JSON) pairs can only tell together."""
    by_folder: dict[Path, list[Path]] = {}
    for images, path in sources:
        by_folder.setdefault(images, []).append(path)
    return [
        partial(compare_categories, [path for _, path in sources]),
        *(partial(inspect_coco_folder, images, jsons) for images, jsons in by_folder.items()),
    ]


def _named_parts(root: Path, annotations: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    """Called by the file, or by its whole path where two files are called the same."""
    stems = Counter(path.stem for path in annotations)
    return {path.stem if stems[path.stem] == 1 else str(path): (root, path) for path in annotations}


def _coco_parts(root: Path) -> dict[str, tuple[Path, Path]]:
    """{split: (folder of the images, JSON)}, as published, or as labelling services export it."""
    parts = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        split = path.stem.removeprefix("instances_")
        places = (root / split, root / "images" / split, root / "images")
        parts[split] = next((place for place in places if place.is_dir()), root), path
    for path in sorted(root.glob(f"*/{_EXPORTED_JSON}")):
        parts[path.parent.name] = path.parent, path
    return dict(sorted(parts.items(), key=lambda part: not part[0].startswith("train")))
