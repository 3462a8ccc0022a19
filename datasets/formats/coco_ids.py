"""The ids that COCO files give to images and categories, for results that other tools score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...detection.errors import ConfigError, DataError, first_few
from ..findings import Fault
from . import coco_json
from .values import key_of

#: An id as its file has it.
Id = int | str


@dataclass(frozen=True)
class CocoIds:
    """``images`` by the id in our records, ``files`` by file name, ``categories`` by class name."""

    images: Mapping[str, Id]
    files: Mapping[str, Id]
    categories: Mapping[str, Id]

    def of_file(self, name: str) -> Id | None:
        """The id of an image by its path below the images' folder, or by its last part alone."""
        return self.files.get(name, self.files.get(PurePosixPath(name).name))

    def expect(self, files: Sequence[str], classes: Sequence[str]) -> None:
        """Raise ConfigError for images and classes without an id."""
        without = [name for name in files if self.of_file(name) is None]
        if without:
            raise ConfigError(
                f"COCO ids: {len(without)} of {len(files)} images are not in the file: "
                f"{first_few(without)}"
            )
        if unnamed := [name for name in classes if name not in self.categories]:
            raise ConfigError(
                f"COCO ids: no category of the file is named {first_few(map(repr, unnamed))}; "
                "--classes leaves classes out"
            )


def coco_ids(path: Path) -> CocoIds:
    """The ids of one COCO file, with or without annotations; raises DataError."""
    try:
        content = coco_json.load_json(path, annotated=False)
    except Fault as fault:
        raise DataError(str(fault.finding)) from fault
    images = {name: entry for entry in content["images"] if (name := key_of(entry.get("id")))}
    names = {image_id: str(entry.get("file_name")) for image_id, entry in images.items()}
    last_parts = Counter(PurePosixPath(name).name for name in names.values())
    files = {
        alias: images[image_id]["id"]
        for image_id, name in names.items()
        for alias in (name, PurePosixPath(name).name)
        if alias == name or last_parts[alias] == 1
    }
    return CocoIds(
        {image_id: entry["id"] for image_id, entry in images.items()},
        files,
        {str(entry.get("name")): entry["id"] for entry in content["categories"] if "id" in entry},
    )


def joined_ids(files: Sequence[CocoIds]) -> CocoIds | None:
    """The ids of several files together; None if their categories contradict each other."""
    images: dict[str, Id] = {}
    by_name: dict[str, Id] = {}
    names: dict[Id, str] = {}
    for ids in files:
        images |= ids.images
        for name, key in ids.categories.items():
            if by_name.setdefault(name, key) != key or names.setdefault(key, name) != name:
                return None
    return CocoIds(images, {}, by_name)
