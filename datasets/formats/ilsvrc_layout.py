"""Where ILSVRC classification and localization data as distributed have their files.

Training images are in ``train/<wnid>/``, one folder a class. Those of val are directly in ``val/``.
The folders are in ``Data/CLS-LOC`` (Kaggle, there also below ``ILSVRC``) or in the root itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ..coordinates import Coordinates
from ..listing import files_in, is_image_name, subfolders
from .format import Part, RootSource

SOLUTION = "LOC_val_solution.csv"
NAMES = "LOC_synset_mapping.txt"
#: The files of the development kits of 2012 and 2015 (whose images and numbers are the same).
GROUND_TRUTHS = (
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2015_clsloc_validation_ground_truth.txt",
)
#: Folders below the root that may hold them.
KITS = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "data")
#: The number in the name of a validation image.
NUMBER = re.compile(r"_val_(\d{8})$")
_TASK = "CLS-LOC"
_WNID = re.compile(r"n\d{8}$")


class IlsvrcSource(RootSource):
    """ILSVRC2012 as distributed: training folders by wnid, flat validation images with their ground
    truth and, for localizers, XML files with boxes."""

    format: Literal["ilsvrc"] = "ilsvrc"
    #: Folder of the training images.
    train: str = "train"
    #: Folder of the validation images.
    val: str = "val"
    #: Read every image's header before training; a million take minutes. With boxes, they are read.
    headers: bool = False
    #: ILSVRC counts pixels from 1 and includes the last one, as PASCAL does.
    coordinates: Coordinates = "one_based"

    def folder(self, part: Part) -> str:
        """The name of the folder of a part's images."""
        return self.train if part == "train" else self.val


def kaggle_root(root: Path) -> Path:
    """The folder with ``Data``, ``Annotations`` and ``ImageSets``: ``root`` or its ``ILSVRC``."""
    inside = root / "ILSVRC"
    return inside if (inside / "Data" / _TASK).is_dir() else root


def images_folder(root: Path, split: str) -> Path:
    """The folder of a split's images."""
    kaggle = kaggle_root(root) / "Data" / _TASK / split
    return kaggle if kaggle.is_dir() else root / split


def task_folder(root: Path, kind: str) -> Path:
    """``Data/CLS-LOC``, ``Annotations/CLS-LOC`` or ``ImageSets/CLS-LOC``."""
    return kaggle_root(root) / kind / _TASK


def has_boxes(root: Path) -> bool:
    """Whether there are XML files with boxes."""
    return task_folder(root, "Annotations").is_dir()


def ground_truth(root: Path) -> Path | None:
    """The file with the classes of the validation images."""
    places = [root / SOLUTION, *(root / kit / name for kit in KITS for name in GROUND_TRUTHS)]
    return next((place for place in places if place.is_file()), None)


def recognise(root: Path) -> str:
    """Why the folder is taken for ILSVRC, "" if it is not."""
    data = task_folder(root, "Data")
    if data.is_dir():
        return f"it has {data.relative_to(root)}"
    first = next(filter(None, (_first_of_val(root / split) for split in ("val", ""))), None)
    if first is None:
        return ""
    reason = f"{first.relative_to(root)} is an image of ILSVRC's validation set"
    if truth := ground_truth(root):
        return f"{reason}, whose classes are in {truth.relative_to(root)}"
    train = root / "train"
    classes = subfolders(train) if train.is_dir() else []
    wnids = [place for place in classes if _WNID.match(place.name)]
    return f"{reason}, and {wnids[0].relative_to(root)} is a class" if wnids else ""


def splits(root: Path) -> dict[str, IlsvrcSource]:
    """The splits with labels that have a folder of images; test images have none."""
    names = [name for name in ("train", "val") if images_folder(root, name).is_dir()]
    if names:
        return {name: IlsvrcSource(root=root, headers=True) for name in names}
    flat = _first_of_val(root)
    return {"val": IlsvrcSource(root=root, val=".", headers=True)} if flat else {}


def _first_of_val(folder: Path) -> Path | None:
    """An image of the validation set, directly in the folder."""
    images = (path for path in files_in(folder) if is_image_name(path.name))
    return next((path for path in images if NUMBER.search(path.stem)), None)
