"""Localizers get the objects with their images, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets.catalog_classes import localization_split
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.datasets.image import ImageRules
from resdet.datasets.loading.crops import CentreCrop, FullImage, PaperCrop
from resdet.datasets.loading.dataset import LocalizationDataset, eval_loader, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey, any_shape
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.structures import Annotation, Batch, Record

CROP = PaperCrop((24, 30), 24, colour_std=0.0)


def make_records(folder: Path, count: int = 7) -> list[Record]:
    """Black images with a white object each, the last without."""
    records = []
    for index in range(count):
        size = (30, 40) if index % 3 else (40, 30)
        pixels = np.zeros((*size, 3), np.uint8)
        found = Annotation.empty()
        if index + 1 < count:
            pixels[6:20, index : index + 15] = 255
            box = torch.tensor([[index, 6.0, index + 15, 20.0]])
            found = Annotation(box, torch.tensor([index % 3]), torch.tensor([False]))
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), pixels)
        records.append(Record(str(index), path, size, found, index % 3))
    return records


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images) and one.image_ids == two.image_ids
        assert len(one.annotations) == len(two.annotations) == len(one)
        for mine, other in zip(one.annotations, two.annotations, strict=True):
            assert torch.equal(mine.boxes, other.boxes)
            assert torch.equal(mine.labels, other.labels)
            assert torch.equal(mine.ignore, other.ignore)


def test_neither_workers_nor_restarts_change_batches(tmp_path: Path) -> None:
    dataset = LocalizationDataset(make_records(tmp_path), CROP, least_visible=0.5)
    options = {"batch_size": 4, "seed": 3, "steps": 5}
    whole = list(train_loader(dataset, BatchPlan(any_shape(7), **options), workers=0))
    tail = BatchPlan(any_shape(7), **options, start_step=3)
    assert_same(whole[3:], list(train_loader(dataset, tail, workers=2)))


def test_boxes_are_where_the_objects_are(tmp_path: Path) -> None:
    dataset = LocalizationDataset(make_records(tmp_path), CROP, least_visible=0.5)
    seen = set()
    for index in range(7):
        for seed in range(20):
            sample = dataset[SampleKey(index, seed)]
            assert sample.annotation is not None
            seen.add((len(sample.annotation), bool(sample.annotation.ignore.any())))
            rows, columns = np.nonzero(sample.image.numpy()[:, :, 0] > 127)
            for box in sample.annotation.boxes:
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(box.numpy() - edges).max() <= 1
    assert seen >= {(0, False), (1, False), (1, True)}


def test_an_image_without_objects_has_an_empty_annotation(tmp_path: Path) -> None:
    dataset = LocalizationDataset(make_records(tmp_path, 2), CentreCrop(24, 24), least_visible=0.5)
    [batch] = eval_loader(dataset, batch_size=2, workers=0)
    assert [len(annotation) for annotation in batch.annotations] == [1, 0]
    alone = LocalizationDataset(dataset.records[1:], CROP, least_visible=0.5)
    [batch] = eval_loader(alone, batch_size=2, workers=1)
    assert len(batch.annotations[0]) == 0


def test_views_have_their_own_boxes(tmp_path: Path) -> None:
    views = (FullImage(30), FullImage(60, flipped=True))
    dataset = LocalizationDataset(make_records(tmp_path, 2)[:1], *views, least_visible=0.5)
    [batch] = eval_loader(dataset, batch_size=2, workers=0)
    boxes = [part.annotations[0].boxes.tolist() for part in (batch, *batch.views)]
    # The image is 30 wide: x from 0 to 15, at twice the size flipped from 30 to 60.
    assert boxes == [[[0.0, 6.0, 15.0, 20.0]], [[30.0, 12.0, 60.0, 40.0]]]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_annotations_of_workers_hold_few_files(tmp_path: Path) -> None:
    dataset = LocalizationDataset(make_records(tmp_path, 30), CROP, least_visible=0.5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = list(eval_loader(dataset, batch_size=10, workers=1))
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    assert len(batches) == 3 and held < 3 * 8  # three for each image would be 3 * 30


def test_truncated_images_follow_the_rules(tmp_path: Path) -> None:
    records = make_records(tmp_path, 3)
    data = records[1].path.read_bytes()
    records[1].path.write_bytes(data[: len(data) - 30])
    skipping = ImageRules(on_truncated="skip")
    dataset = LocalizationDataset(records, CROP, least_visible=0.5, rules=skipping)
    plan = BatchPlan(any_shape(3), batch_size=3, seed=0, steps=1)
    [batch] = train_loader(dataset, plan, workers=0)
    assert len(batch.skipped) == 1
    assert sorted(batch.image_ids) == ["0", "2", "2"] and len(batch.annotations) == 3


def test_bad_settings_and_records(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"least_visible: 1\.5"):
        LocalizationDataset([], CROP, least_visible=1.5)
    [record, _] = make_records(tmp_path, 2)
    nameless = Record("0", record.path, record.size, record.annotation)
    with pytest.raises(DataError, match="no class"):
        LocalizationDataset([nameless], CROP, least_visible=0.5)[SampleKey(0, 0)]


def test_pets(shared_data: Path) -> None:
    split = localization_split(IlsvrcSource(root=shared_data / "pets_cls_loc"), "val", classes=None)
    dataset = LocalizationDataset(split.records, FullImage(64), least_visible=0.3)
    batches = list(eval_loader(dataset, batch_size=32, workers=0))
    found = [annotation for batch in batches for annotation in batch.annotations]
    assert len(found) == 59 and sum(map(len, found)) == 60
    boxes = torch.cat([annotation.boxes for annotation in found])
    assert boxes.min() >= 0 and (boxes[:, 2:] > boxes[:, :2]).all()
    assert all(
        set(annotation.labels.tolist()) == {label}
        for batch in batches
        for annotation, label in zip(batch.annotations, batch.labels.tolist(), strict=True)
    )
