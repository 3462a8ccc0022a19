"""Files of detections that other tools and evaluation servers take: COCO results with the ground
truth under the same ids, and the detection files of the VOC development kit.

Boxes and scores are not rounded, except VOC's to 1e-6 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...datasets.catalog import DataSplit
from ...datasets.formats.coco_ids import Id
from ..files import write_file
from ..structures import Detections, Record
from .columns import Columns, gather_truth, id_order
from .report import write_json
from .result_ids import ResultIds


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


def write_columns(
    columns: Columns, ids: ResultIds, folder: Path, split: DataSplit | None = None
) -> tuple[Path, ...]:
    """Write ``detections.json`` as `write_coco` does, and for a ``split`` ``ground_truth.json``."""
    found = columns.found
    bbox = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
    rows = zip(
        found.images.tolist(),
        found.labels.tolist(),
        bbox.tolist(),
        found.scores.tolist(),
        strict=True,
    )
    results = [
        {
            "image_id": ids.images[columns.image_ids[image]],
            "category_id": ids.categories[label],
            "bbox": box,
            "score": score,
        }
        for image, label, box, score in rows
    ]
    written = [folder / "detections.json"]
    write_json(results, written[0], indent=None)
    if split is not None:
        written.append(folder / "ground_truth.json")
        write_json(_truth(split.records, split, ids), written[1], indent=None)
    return tuple(written)


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
