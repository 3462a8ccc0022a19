"""Files of detections that other tools and evaluation servers take: COCO results with the ground
truth under the same ids, and the detection files of the VOC development kit.

Boxes and scores are not rounded, except VOC's to 1e-6 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...datasets.catalog import DataSplit
from ...datasets.formats.coco import CocoSource
from ...datasets.formats.coco_ids import Id, coco_ids, joined_ids
from ...datasets.formats.format import Source
from ..files import write_file
from ..structures import Detections, Record
from .columns import gather_truth, id_order
from .report import write_json


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
    if ids is None:
        note = "the COCO files give categories different ids: classes are numbered by label"
        known = {key: value for path in files for key, value in coco_ids(path).images.items()}
        return ResultIds(known, numbered.categories, (note,))
    unknown = [name for name in split.classes if name not in ids.categories]
    free = max((key for key in ids.categories.values() if isinstance(key, int)), default=0) + 1
    categories = dict(ids.categories) | {name: free + n for n, name in enumerate(unknown)}
    notes = tuple(
        f"class {name!r} is no category of the COCO files: written as {categories[name]}"
        for name in unknown
    )
    return ResultIds(ids.images, [categories[name] for name in split.classes], notes)


def write_coco(
    found: Mapping[str, Detections], split: DataSplit, ids: ResultIds, folder: Path
) -> tuple[Path, Path]:
    """Write ``detections.json``, a list of COCO results, and ``ground_truth.json``, the objects of
    the same images under the same ids (``image_info.json`` for images without annotations).

    ``bbox`` is (x, y, width, height) in original pixels. Images by sorted id.
    """
    results = [
        result
        for image_id in sorted(found, key=id_order)
        for result in _results(ids.images[image_id], found[image_id].to("cpu"), ids.categories)
    ]
    records = [record for record in split.records if record.image_id in found]
    truth = folder / ("ground_truth.json" if split.annotated else "image_info.json")
    write_json(results, folder / "detections.json", indent=None)
    write_json(_truth(records, split, ids), truth, indent=None)
    return folder / "detections.json", truth


def write_voc(
    found: Mapping[str, Detections], classes: Sequence[str], image_set: str, folder: Path
) -> tuple[Path, ...]:
    """Write ``comp4_det_<image set>_<class>.txt`` for every class: lines of image id, score and
    x1, y1, x2, y2 in pixels from 1, the last one included, as the VOC development kit and its
    evaluation server read them. By falling score; of equal scores the first image id first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[tuple[float, str]]] = [[] for _ in classes]
    for image_id in sorted(found, key=id_order):
        one = found[image_id].to("cpu")
        columns = zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in columns:
            line = f"{image_id} {score:.12f} {x1 + 1:.6f} {y1 + 1:.6f} {x2:.6f} {y2:.6f}\n"
            rows[label].append((-score, line))
    paths = []
    for name, lines in zip(classes, rows, strict=True):
        paths.append(folder / f"comp4_det_{image_set}_{name}.txt")
        lines.sort(key=lambda row: row[0])
        write_file(paths[-1], "".join(line for _, line in lines))
    return tuple(paths)


def _sorted_ids(split: DataSplit) -> list[str]:
    return sorted((record.image_id for record in split.records), key=id_order)


def _results(image: Id, found: Detections, categories: Sequence[Id]) -> Iterator[dict[str, Any]]:
    rows = zip(_xywh(found.boxes), found.scores.tolist(), found.labels.tolist(), strict=True)
    for bbox, score, label in rows:
        yield {
            "image_id": image,
            "category_id": categories[label],
            "bbox": bbox,
            "score": score,
        }


def _truth(records: Sequence[Record], split: DataSplit, ids: ResultIds) -> dict[str, Any]:
    content: dict[str, Any] = {
        "info": {"description": "written by resdet beside detections.json"},
        "images": [_image(record, ids.images[record.image_id]) for record in records],
        "categories": [
            {"id": key, "name": name}
            for key, name in zip(ids.categories, split.classes, strict=True)
        ],
    }
    if split.annotated:
        objects = [obj for record in records for obj in _objects(record, ids)]
        # pycocotools takes annotation 0 for "no match".
        content["annotations"] = [{"id": number} | obj for number, obj in enumerate(objects, 1)]
    return content


def _image(record: Record, key: Id) -> dict[str, Any]:
    height, width = record.size
    return {"id": key, "file_name": record.path.name, "width": width, "height": height}


def _objects(record: Record, ids: ResultIds) -> Iterator[dict[str, Any]]:
    truth = gather_truth([record.annotation])
    rows = zip(
        _xywh(record.annotation.boxes),
        truth.labels.tolist(),
        truth.areas.tolist(),
        truth.ignore.tolist(),
        strict=True,
    )
    for bbox, label, area, ignore in rows:
        yield {
            "image_id": ids.images[record.image_id],
            "category_id": ids.categories[label],
            "bbox": bbox,
            "area": area,
            "iscrowd": int(ignore),
        }


def _xywh(boxes: torch.Tensor) -> list[list[float]]:
    corner, opposite = boxes.double().split(2, dim=1)
    return torch.cat([corner, opposite - corner], dim=1).tolist()
