"""Evaluations in pieces give the numbers of the whole, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resdet.detection.evaluation.columns import Columns, FoundColumns, TruthColumns, gather
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.pieces import Pieces
from resdet.detection.structures import Detections
from resdet.tests.detection.evaluation.test_coco import random_set

CLASSES = ("cat", "dog", "cow")


def piece_of(columns: Columns, images: np.ndarray) -> Columns:
    """The rows of some images, in this order."""

    def rows(part: TruthColumns | FoundColumns) -> dict[str, np.ndarray]:
        chosen = [np.flatnonzero(part.images == image) for image in images]
        every = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
        index = np.repeat(np.arange(len(images)), [len(each) for each in chosen])
        names = [name for name in vars(part) if name != "images"]
        return {"images": index, **{name: getattr(part, name)[every] for name in names}}

    truth = TruthColumns(**rows(columns.truth))
    found = FoundColumns(**rows(columns.found))
    ids = tuple(columns.image_ids[image] for image in images)
    return replace(columns, image_ids=ids, truth=truth, found=found)


@pytest.mark.parametrize(("seed", "coco"), [(0, True), (1, True), (2, False)])
def test_pieces_equal_the_whole(seed: int, coco: bool, tmp_path: Path) -> None:
    """With equal scores, ignored objects, a class without objects, and an image with more
    detections than COCO counts; pieces of any size and in any order."""
    records, detections = random_set(seed, 40)
    crowded = max(detections, key=lambda name: len(detections[name]))
    detections[crowded] = Detections.cat([detections[crowded]] * 40)
    columns = gather(detections, records, len(CLASSES))
    assert max(torch.bincount(detections[crowded].labels)) > 100
    whole = evaluate_columns(
        columns, CLASSES, coco="pycocotools" if coco else None, sizes=(24.0, 80.0)
    )
    pieces = Pieces(tmp_path, CLASSES, coco=coco, sizes=(24.0, 80.0))
    order = np.random.default_rng(seed).permutation(40)
    for images in np.split(order, [3, 3, 20]):
        pieces.add(piece_of(columns, images), images)
    found = pieces.evaluation()
    assert 0 < found.metrics["voc_ap50"] < 1
    assert repr(found.metrics) == repr(whole.metrics)
    assert repr(found.per_class) == repr(whole.per_class)
    assert (found.images, found.notes) == (whole.images, whole.notes)
    ours, theirs = found.more(), whole.more()
    assert ours["operating_points"].items() <= theirs["operating_points"].items()
    for name in ("confusion", "voc_ap50_11point_recalls"):
        assert ours[name] == theirs[name]


def test_nothing(tmp_path: Path) -> None:
    columns = gather({}, [], len(CLASSES))
    found = Pieces(tmp_path, CLASSES).evaluation()
    whole = evaluate_columns(columns, CLASSES)
    assert repr(found.metrics) == repr(whole.metrics)
    assert repr(found.per_class) == repr(whole.per_class)
    assert found.notes == whole.notes
