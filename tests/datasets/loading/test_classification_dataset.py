"""Classifiers get the same batches whoever reads them, and a bad image is one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from resdet.datasets.image import ImageRules
from resdet.datasets.loading.crops import CentreCrop, FullImage, PaperCrop, TenCrop
from resdet.datasets.loading.dataset import ClassificationDataset, eval_loader, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey, any_shape
from resdet.detection.errors import DataError, ImageError
from resdet.detection.structures import Batch, Record

CROP = PaperCrop((24, 30), 24)


def make_records(folder: Path, count: int = 7) -> list[Record]:
    records = []
    for index in range(count):
        size = (30, 40) if index % 3 else (40, 30)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = folder / f"{index}.jpg"
        assert cv2.imwrite(str(path), pixels)
        records.append(Record(str(index), path, size, image_label=index % 3))
    return records


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].rstrip(b"\xff"))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert one.image_ids == two.image_ids and one.seeds == two.seeds


def test_neither_workers_nor_restarts_nor_processes_change_batches(tmp_path: Path) -> None:
    dataset = ClassificationDataset(make_records(tmp_path), CROP)
    options = {"batch_size": 4, "seed": 3, "steps": 5}
    whole = list(train_loader(dataset, BatchPlan(any_shape(7), **options), workers=0))
    tail = BatchPlan(any_shape(7), **options, start_step=3)
    assert_same(whole[3:], list(train_loader(dataset, tail, workers=2)))
    halves = [
        list(train_loader(dataset, BatchPlan(any_shape(7), **options, **share), workers=0))
        for share in ({"rank": 0, "world": 2}, {"rank": 1, "world": 2})
    ]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([half[step].images for half in halves]))
        assert batch.image_ids == [name for half in halves for name in half[step].image_ids]
    assert whole[0].images.shape == (4, 3, 24, 24)
    assert whole[0].images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_has_every_image(tmp_path: Path) -> None:
    dataset = ClassificationDataset(make_records(tmp_path), CROP)
    plan = BatchPlan(any_shape(7), batch_size=4, seed=0, steps=2)
    seen = Counter(key.index for keys in plan for key in keys)
    assert set(seen) == set(range(7)) and seen.total() == 8
    shapes = [
        {dataset.records[key.index].size for key in keys}
        for keys in BatchPlan(any_shape(7), batch_size=3, seed=0, steps=40)
    ]
    assert sum(len(mixed) == 2 for mixed in shapes) > 10  # not sorted by shape


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    dataset = ClassificationDataset(make_records(tmp_path), CentreCrop(24, 24))
    batches = list(eval_loader(dataset, batch_size=4, workers=0))
    assert [batch.image_ids for batch in batches] == [list("0123"), list("456")]
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 0], [1, 2, 0]]
    assert batches[0].labels.dtype == torch.int64
    loaded = dataset[SampleKey(5, 9)]
    assert (loaded.label, loaded.image_id, loaded.seed) == (2, "5", 9)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_the_further_crops(tmp_path: Path, workers: int) -> None:
    records = make_records(tmp_path, 3)
    dataset = ClassificationDataset(records, CentreCrop(24, 24), TenCrop(24, 24))
    [batch] = eval_loader(dataset, batch_size=4, workers=workers)
    assert len(batch.views) == 10
    ten = ClassificationDataset(records, TenCrop(24, 24))
    [alone] = eval_loader(ten, batch_size=4, workers=0)
    for view, other in zip(batch.views, (alone, *alone.views), strict=True):
        assert torch.equal(view.images, other.images)
        assert torch.equal(view.labels, batch.labels) and view.image_ids == batch.image_ids
    assert torch.equal(batch.images, batch.views[4].images)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_views_of_workers_hold_few_files(tmp_path: Path) -> None:
    dataset = ClassificationDataset(make_records(tmp_path, 6), TenCrop(24, 24))
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = list(eval_loader(dataset, batch_size=1, workers=1))
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    assert len(batches) == 6 and held < 6 * 4  # one per tensor would be 6 * 20


def test_whole_images_of_one_size_share_a_batch(tmp_path: Path) -> None:
    dataset = ClassificationDataset(
        make_records(tmp_path), FullImage(24), FullImage(32, flipped=True)
    )
    batches = list(eval_loader(dataset, batch_size=3, workers=0))
    assert [batch.image_ids for batch in batches] == [list("036"), list("124"), ["5"]]
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(32, 24), (24, 32), (24, 32)]
    assert tuple(batches[1].views[0].images.shape) == (3, 3, 32, 43)
    shares = [
        list(eval_loader(dataset, batch_size=3, workers=0, rank=rank, world=2)) for rank in (0, 1)
    ]
    assert_same([batches[0], batches[2]], shares[0])
    assert_same([batches[1]], shares[1])


def test_whole_images_of_one_shape_share_a_batch_at_one_scale(tmp_path: Path) -> None:
    """As they are grouped by what the crops make of them, not by their own size."""
    records = []
    for number, size in enumerate([(40, 60), (80, 120), (60, 40), (41, 61)]):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size[::-1]).save(path)
        records.append(Record(str(number), path, size, image_label=0))
    dataset = ClassificationDataset(records, FullImage(20))
    batches = list(eval_loader(dataset, batch_size=4, workers=0))
    assert [batch.image_ids for batch in batches] == [list("013"), ["2"]]
    both = ClassificationDataset(records, FullImage(20), FullImage(80))
    batches = list(eval_loader(both, batch_size=4, workers=0))
    assert [batch.image_ids for batch in batches] == [list("01"), ["2"], ["3"]]


def test_whole_images_of_unknown_size_are_grouped_by_their_headers(tmp_path: Path) -> None:
    """Those of class folders, of which no image is opened before."""
    known = make_records(tmp_path)
    records = [Record(r.image_id, r.path, (0, 0), image_label=r.image_label) for r in known]
    views = (FullImage(24), FullImage(32, flipped=True))
    batches = [
        list(eval_loader(ClassificationDataset(each, *views), batch_size=3, workers=0))
        for each in (records, known)
    ]
    assert [batch.image_ids for batch in batches[0]] == [list("036"), list("124"), ["5"]]
    assert_same(*batches)
    cropped = ClassificationDataset(records, CROP)
    assert [len(b) for b in eval_loader(cropped, batch_size=4, workers=0)] == [4, 3]


def test_an_image_without_a_usable_header_is_alone(tmp_path: Path) -> None:
    records = [
        Record(r.image_id, r.path, (0, 0), image_label=r.image_label)
        for r in make_records(tmp_path)
    ]
    records[3].path.write_bytes(b"no image")
    whole = ClassificationDataset(records, FullImage(24))
    assert [[key.index for key in keys] for keys in whole.batches(3)] == [
        [0, 6],
        [1, 2, 4],
        [5],
        [3],
    ]
    assert [[key.index for key in keys] for keys in whole.batches(1)] == [[n] for n in range(7)]
    with pytest.raises(ImageError, match=r"3\.jpg: not an image"):
        list(eval_loader(whole, batch_size=3, workers=0))
    rules = ImageRules(on_bad_image="skip")
    left = ClassificationDataset(records, FullImage(24), rules=rules)
    with pytest.warns(UserWarning, match="left out"):
        batches = list(eval_loader(left, batch_size=3, workers=0))
    assert [batch.image_ids for batch in batches] == [list("06"), list("124"), ["5"]]


def test_no_images_to_evaluate() -> None:
    assert list(eval_loader(ClassificationDataset([], CROP), batch_size=2, workers=0)) == []


# ---------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_is_one_line_naming_the_file(tmp_path: Path, workers: int) -> None:
    dataset = ClassificationDataset(make_records(tmp_path), CROP)
    bad = tmp_path / "4.jpg"
    bad.write_text("<html>not found</html>")
    plan = BatchPlan(any_shape(7), batch_size=4, seed=3, steps=5)
    with pytest.raises(ImageError) as caught:
        list(train_loader(dataset, plan, workers=workers))
    assert str(caught.value).startswith(f"{bad}: ") and "\n" not in str(caught.value)


def test_truncated_images_follow_the_rules(tmp_path: Path) -> None:
    records = make_records(tmp_path, 3)
    cut_short(tmp_path / "1.jpg")
    with pytest.raises(ImageError, match=r"1\.jpg: truncated"):
        list(eval_loader(ClassificationDataset(records, CROP), batch_size=3, workers=0))
    skipping = ClassificationDataset(records, CROP, rules=ImageRules(on_truncated="skip"))
    with pytest.warns(UserWarning, match="left out"):
        [batch] = eval_loader(skipping, batch_size=3, workers=0)
    assert batch.image_ids == ["0", "2"]
    plan = BatchPlan(any_shape(3), batch_size=3, seed=0, steps=1)
    [batch] = train_loader(skipping, plan, workers=0)
    assert sorted(batch.image_ids) == ["0", "2", "2"]
    [line] = batch.skipped
    assert line.startswith(f"{tmp_path / '1.jpg'}: truncated")
    kept = ClassificationDataset(records, CROP, rules=ImageRules(on_truncated="warn"))
    with pytest.warns(UserWarning, match=r"1\.jpg: truncated"):
        kept[SampleKey(1, 0)]


def test_an_image_that_has_changed(tmp_path: Path) -> None:
    [record] = make_records(tmp_path, 1)
    other = Record("0", record.path, (90, 120), image_label=0)
    with pytest.raises(ImageError, match=r"0\.jpg.* 30x40 .* 120x90 .*has changed"):
        ClassificationDataset([other], CROP)[SampleKey(0, 0)]
    with pytest.raises(DataError, match="no class"):
        ClassificationDataset([Record("0", record.path, record.size)], CROP)[SampleKey(0, 0)]
