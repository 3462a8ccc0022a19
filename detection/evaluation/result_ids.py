"""The ids of images and categories in files of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...datasets.catalog import DataSplit
from ...datasets.formats.coco import CocoSource
from ...datasets.formats.coco_ids import Id, coco_ids, joined_ids
from ...datasets.formats.format import Source
from .columns import id_order


@dataclass(frozen=True)
class ResultIds:
    """The ids in files of results: ``images`` by the records' ids, ``categories`` in label order;
    ``notes`` say where they are not those of the data."""

    images: Mapping[str, Id]
    categories: Sequence[Id]
    notes: tuple[str, ...] = ()


def result_ids(split: DataSplit, sources: Sequence[Source]) -> ResultIds:
    """The ids of the COCO files that ``split`` comes from.

    Data without COCO ids, and files whose categories contradict each other, are numbered from 1:
    images by sorted image id, categories by label. A class that is no category of the files gets
    the next free number.
    """
    numbered = ResultIds(
        {key: number for number, key in enumerate(_sorted_ids(split), 1)},
        range(1, len(split.classes) + 1),
    )
    files = [source.annotations for source in sources if isinstance(source, CocoSource)]
    if len(files) < len(sources):
        note = "the data have no COCO ids: images are numbered by sorted image id, classes by label"
        return ResultIds(numbered.images, numbered.categories, (note,))
    ids = joined_ids([coco_ids(path) for path in files])
    known = {key: value for path in files for key, value in coco_ids(path).images.items()}
    if not known.keys() >= set(split.records.ids()):  # see `with_own_ids`
        note = "the COCO files give images the same ids: images are numbered, and classes by label"
        return ResultIds(numbered.images, numbered.categories, (note,))
    if ids is None:
        note = "the COCO files give categories different ids: classes are numbered by label"
        return ResultIds(known, numbered.categories, (note,))
    unknown = [name for name in split.classes if name not in ids.categories]
    free = max((key for key in ids.categories.values() if isinstance(key, int)), default=0) + 1
    categories = dict(ids.categories) | {name: free + n for n, name in enumerate(unknown)}
    notes = tuple(
        f"class {name!r} is no category of the COCO files: written as {categories[name]}"
        for name in unknown
    )
    return ResultIds(ids.images, [categories[name] for name in split.classes], notes)


def _sorted_ids(split: DataSplit) -> list[str]:
    return sorted(split.records.ids(), key=id_order)
