"""The objects of a manifest's images, from annotations in columns or from the files of a data set.

In columns (Parquet, CSV) a row is an object: ``id`` of its image in the manifest, ``label``, the
box ``x1``, ``y1``, ``x2``, ``y2`` in px, and, if they are there, ``area`` in px² and ``ignore``. An
image without objects has one row of nothing but its id. Rows may be in any order: they are
parted into files, each for a few shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...datasets.manifests.manifest import Manifest
from ..errors import DataError, first_few
from ..evaluation.columns import TruthColumns
from ..evaluation.foreign_results import Truth, read_truth
from .object_tables import BOX, batches_of, tables_at

Ints = npt.NDArray[np.int64]

_OBJECT = np.dtype(
    [("id", "i8"), ("label", "i4"), ("box", "f8", (4,)), ("area", "f8"), ("ignore", "?")]
)
#: Files that the rows are parted into.
_FILES = 256


class ManifestTruth(Protocol):
    """The annotations of a manifest: ``classes`` in label order."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def shard(self, number: int, names: Sequence[str]) -> tuple[Ints, Ints, TruthColumns]:
        """Of the shard with the images ``names``: the places of those with annotations, their ranks
        among the images of all shards, by which equal scores are ordered, and their objects, whose
        ``images`` index the places. Raises DataError."""

    def expect_all_seen(self, images: int) -> None:
        """Raises DataError unless as many images with annotations were in the shards."""


def read_manifest_truth(
    path: str, image_set: str, manifest: Manifest, classes: Sequence[str], folder: Path
) -> ManifestTruth:
    """The annotations at ``path``: a Parquet or CSV file or a folder of them, also at an address; a
    COCO file, or a VOC folder with its ``image_set``, which are read whole. ``classes`` come first
    in label order; ``folder`` is an empty one for 53 bytes an object.

    Raises ConfigError for a missing file and for tables in folders below the one that is given,
    DataError for a malformed file.
    """
    if tables := tables_at(path):
        known = {name: label for label, name in enumerate(classes)}
        truth = ColumnTruth(manifest, folder, known)
        for table in tables:
            truth.part(table)
        return truth
    return FileTruth(path, read_truth(Path(path), image_set))


@dataclass
class ColumnTruth:
    """Objects in columns; ``labels`` by class name, which grows."""

    manifest: Manifest
    folder: Path
    labels: dict[str, int]

    def __post_init__(self) -> None:
        self._shards = -(-self.manifest.shards // _FILES)
        self._load = lru_cache(1)(self._file)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def part(self, table: str) -> None:
        """Take the rows of a file; raises DataError."""
        first = 1
        for columns in batches_of(table):
            rows = self._rows(columns, table, first)
            first += len(rows)
            places = rows["id"] // (self.manifest.per_shard * self._shards)
            for place in np.unique(places):
                with (self.folder / f"{place}.objects").open("ab") as file:
                    rows[places == place].tofile(file)

    def shard(self, number: int, names: Sequence[str]) -> tuple[Ints, Ints, TruthColumns]:
        rows = self._load(number // self._shards)
        first = number * self.manifest.per_shard
        start, end = np.searchsorted(rows["id"], (first, first + len(names)))
        rows = rows[start:end]
        ids, images = np.unique(rows["id"], return_inverse=True)
        there = rows["label"] >= 0
        counts = np.bincount(images, minlength=len(ids))
        if (twice := ids[np.bincount(images[~there], minlength=len(ids)) > (counts == 1)]).size:
            raise DataError(f"image {twice[0]}: has a row without a label beside others")
        rows, images = rows[there], images[there]
        boxes = rows["box"].reshape(-1, 4)
        areas = np.where(
            np.isnan(rows["area"]), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), rows["area"]
        )
        labels = rows["label"].astype(np.int64)
        truth = TruthColumns(boxes.copy(), labels, images, rows["ignore"].copy(), areas)
        return ids - first, ids, truth

    def expect_all_seen(self, images: int) -> None:
        return  # ids outside the manifest were refused

    def _file(self, place: int) -> Any:
        path = self.folder / f"{place}.objects"
        rows = np.fromfile(path, _OBJECT) if path.exists() else np.zeros(0, _OBJECT)
        return rows[np.argsort(rows["id"], kind="stable")]

    def _rows(self, columns: Any, table: str, first: int) -> Any:
        """The rows of a batch, the first of which is number ``first`` of the file."""
        rows = np.zeros(columns.num_rows, _OBJECT)
        ids, images = columns.column("id"), self.manifest.images
        rows["id"] = ids.fill_null(-1).to_numpy()
        outside = (rows["id"] < 0) | (rows["id"] >= images)
        _refuse(outside, table, first, f"expected an id of the manifest, 0 to {images - 1}")
        names = columns.column("label").dictionary_encode().combine_chunks()
        of_name = [self.labels.setdefault(name, len(self.labels)) for name in _values(names)]
        labels = names.indices.fill_null(len(of_name)).to_numpy()
        rows["label"] = np.array([*of_name, -1])[labels]
        rows["box"] = np.stack([columns.column(name).to_numpy() for name in BOX], axis=1)
        empty = np.isnan(rows["box"])
        broken = empty.any(axis=1) != (rows["label"] < 0)
        broken |= empty.any(axis=1) != empty.all(axis=1)
        _refuse(broken, table, first, "expected a label and a box, or neither")
        rows["area"] = columns.column("area").to_numpy()
        rows["ignore"] = columns.column("ignore").fill_null(False).to_numpy()
        return rows


@dataclass
class FileTruth:
    """The objects of a COCO file or a VOC image set, whose images go by the names of files."""

    path: str
    truth: Truth

    def __post_init__(self) -> None:
        self._places = {image_id: place for place, image_id in enumerate(self.truth.image_ids)}
        self._seen: set[int] = set()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.truth.classes

    def shard(self, number: int, names: Sequence[str]) -> tuple[Ints, Ints, TruthColumns]:
        del number
        every = self.truth.columns
        places, ranks = [], []
        for place, name in enumerate(names):
            image_id = self.truth.image_of(name)
            if image_id is None:
                continue
            rank = self._places[image_id]
            if rank in self._seen:
                raise DataError(f"{self.path}: image {image_id}: the manifest has it twice: {name}")
            self._seen.add(rank)
            places.append(place)
            ranks.append(rank)
        starts = np.searchsorted(every.images, ranks)
        counts = np.searchsorted(every.images, ranks, side="right") - starts
        # Of every object the row of its image's first one, and its place behind it.
        behind = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(starts, counts) + behind
        truth = TruthColumns(
            every.boxes[rows],
            every.labels[rows],
            np.repeat(np.arange(len(places)), counts),
            every.ignore[rows],
            every.areas[rows],
        )
        return np.array(places, dtype=np.int64), np.array(ranks, dtype=np.int64), truth

    def expect_all_seen(self, images: int) -> None:
        if missing := len(self.truth.image_ids) - images:
            lost = (
                each for place, each in enumerate(self.truth.image_ids) if place not in self._seen
            )
            raise DataError(
                f"{self.path}: {missing} of its images are not in the manifest: "
                f"{first_few(map(repr, lost), 3)}; give annotations of the manifest's images alone"
            )


def _values(names: Any) -> list[str]:
    return [str(name) for name in names.dictionary.to_pylist()]


def _refuse(bad: npt.NDArray[np.bool_], table: str, first: int, reason: str) -> None:
    if bad.any():
        raise DataError(
            f"{table}: row {first + int(bad.argmax())}: {reason} ({int(bad.sum())} such rows)"
        )
