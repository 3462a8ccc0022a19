"""Regions are drawn with their probabilities, and keep all objects of their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets.catalog_classes import localization_split
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.datasets.image import ImageRules
from resdet.datasets.loading.dataset import eval_loader, train_loader
from resdet.datasets.loading.regions import RegionDataset, Square, region_loader, warp
from resdet.datasets.loading.sampling import BatchPlan, SampleKey, any_shape
from resdet.detection.errors import ConfigError, DataError, ImageError
from resdet.detection.structures import Annotation, Batch, Record

Box = tuple[float, float, float, float]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


OBJECT: Box = (4.0, 5.0, 24.0, 20.0)
NEAR: Box = (5.0, 5.0, 24.0, 20.0)  # IoU 0.95
FAR: Box = (20.0, 18.0, 40.0, 30.0)
INNER = [4.0, 4.0, 28.0, 28.0]


def make_records(folder: Path, count: int = 5, *objects: Box) -> list[Record]:
    boxes = torch.tensor(objects).reshape(-1, 4)
    flags = torch.zeros(len(boxes), dtype=torch.bool)
    records = []
    for index in range(count):
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), noise(30, 40, index))
        found = Annotation(boxes, torch.full((len(boxes),), index % 3), flags)
        records.append(Record(str(index), path, (30, 40), found, index % 3))
    return records


def make_dataset(
    records: list[Record], *proposals: Box, fraction: float = 0.5, flip: float = 0.0
) -> RegionDataset:
    regions = torch.tensor(proposals).reshape(-1, 4)
    return RegionDataset(
        records,
        {record.image_id: regions for record in records},
        Square(32, 4),
        positive_iou=0.5,
        positive_fraction=fraction,
        flip=flip,
        rules=ImageRules(on_truncated="skip"),
    )


def drawn(dataset: RegionDataset, seeds: int = 60) -> list[Box]:
    """The regions, found by where the first object lies in the square."""
    regions = []
    for seed in range(seeds):
        sample = dataset[SampleKey(0, seed)]
        assert sample.annotation is not None
        [moved, *_] = sample.annotation.boxes.double()
        scale = (moved[2:] - moved[:2]) / torch.tensor([20.0, 15.0])
        start = (torch.tensor([4.0, 4.0]) - moved[:2]) / scale + torch.tensor([4.0, 5.0])
        stop = start + 24 / scale
        regions.append(tuple(round(value) for value in [*start.tolist(), *stop.tolist()]))
    return regions


def test_positive_and_negative_regions(tmp_path: Path) -> None:
    records = make_records(tmp_path, 1, OBJECT)
    everything = drawn(make_dataset(records, NEAR, FAR), 400)
    assert set(everything) == {OBJECT, NEAR, FAR}
    assert abs(everything.count(FAR) / 400 - 0.5) < 0.08
    assert abs(everything.count(NEAR) / 400 - 0.25) < 0.07
    assert set(drawn(make_dataset(records, NEAR, FAR, fraction=1.0))) == {OBJECT, NEAR}
    assert set(drawn(make_dataset(records, NEAR, FAR, fraction=0.0))) == {FAR}


def test_one_kind_replaces_the_other(tmp_path: Path) -> None:
    records = make_records(tmp_path, 1, OBJECT)
    assert set(drawn(make_dataset(records, fraction=0.0))) == {OBJECT}
    empty = make_records(tmp_path, 1)
    sample = make_dataset(empty, FAR, fraction=1.0)[SampleKey(0, 0)]
    assert sample.annotation is not None and len(sample.annotation) == 0
    expected, _ = warp(noise(30, 40)[:, :, ::-1], FAR, Square(32, 4))  # OpenCV writes BGR
    assert np.array_equal(sample.image, expected)


def test_ignored_objects_are_no_regions(tmp_path: Path) -> None:
    [record] = make_records(tmp_path, 1, OBJECT, FAR)
    found = Annotation(record.annotation.boxes, torch.tensor([0, 0]), torch.tensor([False, True]))
    record = Record("0", record.path, record.size, found, 0)
    dataset = make_dataset([record], FAR, fraction=1.0)
    assert set(drawn(dataset)) == {OBJECT}
    sample = dataset[SampleKey(0, 0)]
    assert sample.annotation is not None and sample.annotation.ignore.tolist() == [False, True]


def test_all_objects_are_kept_unclipped(tmp_path: Path) -> None:
    records = make_records(tmp_path, 1, OBJECT, FAR)
    for flip in (0.0, 1.0):
        sample = make_dataset(records, fraction=1.0, flip=flip)[SampleKey(0, 1)]
        found = sample.annotation
        assert found is not None and INNER in found.boxes.tolist()
        assert found.boxes.min() < 0 or found.boxes.max() > 32
    assert (sample.label, sample.image_id, sample.seed) == (0, "0", 1)


def test_flipped_with_its_probability(tmp_path: Path) -> None:
    records = make_records(tmp_path, 1, OBJECT)
    plain, _ = warp(noise(30, 40)[:, :, ::-1], OBJECT, Square(32, 4))
    dataset = make_dataset(records, flip=0.25)
    images = [dataset[SampleKey(0, seed)].image.numpy() for seed in range(400)]
    flipped = [np.array_equal(image, plain[:, ::-1]) for image in images]
    assert sum(flipped) + sum(np.array_equal(image, plain) for image in images) == 400
    assert abs(np.mean(flipped) - 0.25) < 0.06


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images) and one.image_ids == two.image_ids
        for mine, other in zip(one.annotations, two.annotations, strict=True):
            assert torch.equal(mine.boxes, other.boxes)


def test_neither_workers_nor_restarts_change_batches(tmp_path: Path) -> None:
    dataset = make_dataset(make_records(tmp_path, 7, OBJECT), NEAR, FAR, flip=0.5)
    options = {"batch_size": 4, "seed": 3, "steps": 5}
    whole = list(train_loader(dataset, BatchPlan(any_shape(7), **options), workers=0))
    tail = BatchPlan(any_shape(7), **options, start_step=3)
    assert_same(whole[3:], list(train_loader(dataset, tail, workers=2)))
    assert whole[0].images.shape == (4, 3, 32, 32)
    assert whole[0].images.is_contiguous(memory_format=torch.channels_last)
    tested = list(eval_loader(dataset, batch_size=4, workers=0))
    assert [len(batch) for batch in tested] == [4, 3]


def test_the_next_image_takes_the_place_of_a_truncated_one(tmp_path: Path) -> None:
    records = make_records(tmp_path, 3, OBJECT)
    data = records[1].path.read_bytes()
    records[1].path.write_bytes(data[: len(data) // 2])
    plan = BatchPlan(any_shape(3), batch_size=3, seed=0, steps=1)
    [batch] = train_loader(make_dataset(records, FAR), plan, workers=0)
    assert len(batch.skipped) == 1
    assert sorted(batch.image_ids) == ["0", "2", "2"] and len(batch.annotations) == 3


SETTINGS = {
    "positive_iou": 0.5,
    "positive_fraction": 0.5,
    "flip": 0.5,
}


@pytest.mark.parametrize(
    "wrong", [{"positive_iou": 0.0}, {"positive_fraction": 1.5}, {"flip": -1.0}]
)
def test_impossible_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RegionDataset([], {}, Square(32, 4), **(SETTINGS | wrong))


@pytest.mark.parametrize(
    ("proposals", "message"),
    [
        (lambda: {}, r"0\.png: proposals of '0': there are none, not even an empty list"),
        (lambda: {"0": torch.zeros(4)}, r"expected \(P, 4\) of torch\.float32, got \(4,\)"),
        (lambda: {"0": torch.zeros(1, 4).double()}, r"got \(1, 4\) of torch\.float64"),
        (
            lambda: {"0": torch.tensor([FAR, (3.0, 4.0, 3.0, 9.0)])},
            r"0\.png: proposals of '0': box 1 \(3, 4, 3, 9\) has no area",
        ),
        (lambda: {"0": torch.tensor([(0.0, 0.0, float("inf"), 1.0)])}, "box 0 .*inf"),
        (lambda: {"0": torch.zeros(0, 4)}, "the image has no object"),
    ],
)
def test_impossible_proposals(
    proposals: Callable[[], dict[str, torch.Tensor]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        RegionDataset(make_records(tmp_path, 1), proposals(), Square(32, 4), **SETTINGS)


def test_pets(shared_data: Path) -> None:
    split = localization_split(IlsvrcSource(root=shared_data / "pets_cls_loc"), "val", classes=None)
    whole = {
        record.image_id: torch.tensor([[0.0, 0.0, record.size[1], record.size[0]]])
        for record in split.records
    }
    dataset = RegionDataset(split.records, whole, Square(32, 4), **SETTINGS)
    batches = list(eval_loader(dataset, batch_size=32, workers=0))
    assert sum(len(batch) for batch in batches) == 59
    assert sum(len(annotation) for batch in batches for annotation in batch.annotations) == 60


# ----------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_warps_each_part_for_all_squares(workers: int, tmp_path: Path) -> None:
    records, squares = make_records(tmp_path, 3), [Square(32, 4), Square(24, 2)]
    parts = [torch.tensor([OBJECT, FAR]), torch.tensor([NEAR]), torch.tensor([FAR])]
    regions = [(records[index], part) for index, part in zip((0, 2, 2), parts, strict=True)]
    batches = list(region_loader(regions, squares, rules=ImageRules(), workers=workers))
    assert [len(batch) for batch in batches] == [2, 1, 1]
    for (record, boxes), batch in zip(regions, batches, strict=True):
        pixels = noise(30, 40, int(record.image_id))[:, :, ::-1]
        for square, view in zip(squares, (batch, *batch.views), strict=True):
            for index, box in enumerate(boxes):
                image, geometry = warp(pixels, box, square)
                assert np.array_equal(view.images[index].permute(1, 2, 0), image)
                assert view.geometries[index] == geometry


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_image_is_one_line(workers: int, tmp_path: Path) -> None:
    [record] = make_records(tmp_path, 1)
    assert cv2.imwrite(str(record.path), noise(20, 40))
    loader = region_loader(
        [(record, torch.tensor([FAR]))], [Square(32, 4)], rules=ImageRules(), workers=workers
    )
    with pytest.raises(ImageError, match=r"0\.png.* 40x20 .* 40x30 .*changed") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_no_regions() -> None:
    assert list(region_loader([], [Square(32, 4)], rules=ImageRules(), workers=2)) == []
