"""Detectors get the same batches whoever reads them, and a bad image is one line."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.image import ImageRules, SkippedImage
from resdet.datasets.loading.dataset import DetectionDataset, eval_loader, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey
from resdet.datasets.loading.transforms import EvalTransform, TrainTransform
from resdet.datasets.loading.workers import BatchLoader
from resdet.detection.errors import ConfigError, DataError, ImageError, ResdetError
from resdet.detection.structures import Annotation, Batch, Record

LANDSCAPE, PORTRAIT = (30, 40), (40, 30)


@dataclass(frozen=True)
class Spec:
    name: str
    params: dict[str, object] = field(default_factory=dict)


def make_records(folder: Path, sizes: list[tuple[int, int]]) -> list[Record]:
    records = []
    for index, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / f"{index}.jpg"
        assert cv2.imwrite(str(path), pixels)
        objects = index % 3
        annotation = Annotation(
            torch.tensor([[2.0, 3.0, 20.0, 25.0]]).repeat(objects, 1),
            torch.arange(objects),
            torch.zeros(objects, dtype=torch.bool),
        )
        records.append(Record(str(index), path, (height, width), annotation))
    return records


def make_dataset(folder: Path, count: int = 7) -> DetectionDataset:
    sizes = [LANDSCAPE if index % 2 else PORTRAIT for index in range(count)]
    augment = [Spec("RandomBrightnessContrast"), Spec("Affine", {"scale": [0.8, 1.2]})]
    return DetectionDataset(make_records(folder, sizes), TrainTransform((24, 32), 64, 0.5, augment))


def plan_for(dataset: DetectionDataset, **options: int) -> BatchPlan:
    choices = {"batch_size": 4, "seed": 3, "steps": 5} | options
    return BatchPlan([record.size for record in dataset.records], **choices)


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].rstrip(b"\xff"))  # between two codes


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images)
        assert one.sizes == two.sizes
        assert one.geometries == two.geometries
        assert one.image_ids == two.image_ids
        assert one.seeds == two.seeds
        for left, right in zip(one.annotations, two.annotations, strict=True):
            assert torch.equal(left.boxes, right.boxes)
            assert torch.equal(left.labels, right.labels)
            assert torch.equal(left.ignore, right.ignore)


# -------------------------------------------------------------------------------------- loaders


def test_workers_change_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    alone = list(train_loader(dataset, plan_for(dataset), workers=0))
    state = torch.get_rng_state()
    helped = list(train_loader(dataset, plan_for(dataset), workers=2))
    assert torch.equal(torch.get_rng_state(), state)  # nor does loading touch the global generator
    assert_same(alone, helped)
    assert all(len(batch) == 4 for batch in alone)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_batches_of_workers_hold_few_files(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = list(train_loader(dataset, plan_for(dataset, batch_size=8, steps=6), workers=2))
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    assert len(batches) == 6 and held < 6 * 8  # one per tensor would be 6 * 25


def test_restart_continues_the_stream(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    whole = list(train_loader(dataset, plan_for(dataset), workers=0))
    tail = list(train_loader(dataset, plan_for(dataset, start_step=3), workers=2))
    assert_same(whole[3:], tail)


def test_samples_carry_their_key(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    sample = dataset[SampleKey(5, 77)]
    assert (sample.image_id, sample.seed) == ("5", 77)
    assert sample.geometry.original == LANDSCAPE


@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 5))
def test_eval_batches_cover_once_and_do_not_depend_on_the_ranks(
    count: int, batch_size: int, world: int
) -> None:
    records = [Record(str(index), Path("none"), LANDSCAPE) for index in range(count)]
    dataset = DetectionDataset(records, EvalTransform(32, 64))

    def planned(rank: int, world: int) -> list[list[SampleKey]]:
        made = eval_loader(dataset, batch_size=batch_size, workers=0, rank=rank, world=world)
        batches = list(made._loader.batch_sampler)
        assert len(made) == len(batches)
        return batches

    alone = planned(0, 1)
    assert [key.index for batch in alone for key in batch] == list(range(count))
    shares = [planned(rank, world) for rank in range(world)]
    dealt = [share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share)]
    assert dealt == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_eval_loader_reads_in_order(tmp_path: Path, workers: int) -> None:
    records = make_records(tmp_path, [LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT, PORTRAIT])
    dataset = DetectionDataset(records, EvalTransform(60, 80))
    batches = list(eval_loader(dataset, batch_size=2, workers=workers))
    assert [batch.image_ids for batch in batches] == [["0", "1"], ["2", "3"], ["4"]]
    assert batches[0].images.shape == (2, 3, 80, 80)
    assert batches[0].sizes == [(60, 80), (80, 60)]
    assert batches[0].images[0, :, 60:].max() == 0


def test_no_images_to_evaluate() -> None:
    dataset = DetectionDataset([], EvalTransform(60, 80))
    assert list(eval_loader(dataset, batch_size=2, workers=0)) == []


# ---------------------------------------------------------------------------------- bad images


def failure(batches: BatchLoader) -> ResdetError:
    with pytest.raises(ResdetError) as caught:
        list(batches)
    return caught.value


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_is_one_line_naming_the_file(tmp_path: Path, workers: int) -> None:
    dataset = make_dataset(tmp_path)
    bad = tmp_path / "4.jpg"
    bad.write_text("<html>not found</html>")
    error = failure(train_loader(dataset, plan_for(dataset), workers=workers))
    assert type(error) is ImageError
    assert str(error).startswith(f"{bad}: ")
    assert "\n" not in str(error) and "worker" not in str(error)


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_image_is_an_error_by_default(tmp_path: Path, workers: int) -> None:
    dataset = make_dataset(tmp_path)
    cut_short(tmp_path / "2.jpg")
    error = failure(eval_loader(dataset, batch_size=1, workers=workers))
    assert isinstance(error, ImageError) and str(tmp_path / "2.jpg") in str(error)


def skipping(dataset: DetectionDataset) -> DetectionDataset:
    return DetectionDataset(
        dataset.records, *dataset.transforms, rules=ImageRules(on_truncated="skip")
    )


def test_training_replaces_a_truncated_image_by_the_next(tmp_path: Path) -> None:
    dataset = skipping(make_dataset(tmp_path))
    before = list(train_loader(dataset, plan_for(dataset), workers=0))
    for name in ("5.jpg", "6.jpg"):
        cut_short(tmp_path / name)
    with pytest.raises(SkippedImage):
        dataset[SampleKey(5, 0)]
    after = list(train_loader(dataset, plan_for(dataset), workers=0))
    named = {Path(line.split(":")[0]).name for batch in after for line in batch.skipped}
    assert named == {"5.jpg", "6.jpg"}
    place = {"5": "0", "6": "0"}
    for old, new in zip(before, after, strict=True):
        assert new.image_ids == [place.get(image_id, image_id) for image_id in old.image_ids]
        assert new.seeds == old.seeds


def test_evaluation_leaves_a_truncated_image_out(tmp_path: Path) -> None:
    dataset = skipping(make_dataset(tmp_path, count=5))
    for name in ("1.jpg", "4.jpg"):  # the last batch has nothing left
        cut_short(tmp_path / name)
    with pytest.warns(UserWarning, match="left out"):
        batches = list(eval_loader(dataset, batch_size=2, workers=0))
    assert [batch.image_ids for batch in batches] == [["0"], ["2", "3"]]


def test_all_images_truncated(tmp_path: Path) -> None:
    dataset = skipping(make_dataset(tmp_path, count=2))
    for record in dataset.records:
        cut_short(record.path)
    error = failure(train_loader(dataset, plan_for(dataset), workers=2))
    assert str(error).startswith("none of the 2 images can be used: ")
    assert all(str(record.path) in str(error) for record in dataset.records)


def test_kept_truncated_image_warns_with_its_name(tmp_path: Path) -> None:
    plain = make_dataset(tmp_path, count=1)
    dataset = DetectionDataset(
        plain.records, *plain.transforms, rules=ImageRules(on_truncated="warn")
    )
    cut_short(tmp_path / "0.jpg")
    with pytest.warns(UserWarning, match=r"0\.jpg: truncated"):
        dataset[SampleKey(0, 0)]


def test_failing_augmentation_names_the_image(tmp_path: Path) -> None:
    augment = [Spec("Downscale", {"p": 1.0, "scale_range": [0.001, 0.001]})]  # to 0 pixels
    transform = TrainTransform((24,), 64, 0.0, augment)
    dataset = DetectionDataset(make_records(tmp_path, [LANDSCAPE]), transform)
    with pytest.raises(ConfigError, match=r"0\.jpg: image\.augment: Downscale .* 40x30"):
        dataset[SampleKey(0, 0)]


def test_image_of_another_size(tmp_path: Path) -> None:
    [record] = make_records(tmp_path, [LANDSCAPE])
    changed = Record(record.image_id, record.path, (90, 120), record.annotation)
    dataset = DetectionDataset([changed], EvalTransform(32, 64))
    with pytest.raises(ImageError, match=r"0\.jpg.* 40x30 .* 120x90 .*file has changed"):
        dataset[SampleKey(0, 0)]


def test_size_mismatch_explained_by_exif(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(path, exif=exif)
    stored = Record("turned", path, (30, 40))  # displayed, it is 40 high and 30 wide
    with pytest.raises(ImageError, match=r"turned\.jpg.*EXIF orientation 6.*data\.exif"):
        DetectionDataset([stored], EvalTransform(32, 64))[SampleKey(0, 0)]
    displayed = Record("turned", path, (40, 30))
    sample = DetectionDataset([displayed], EvalTransform(30, 64))[SampleKey(0, 0)]
    assert sample.image.shape == (40, 30, 3)


class KilledWhileReading:
    """A transform during which the system kills the worker, as it does when memory runs out."""

    def __call__(self, pixels: np.ndarray, annotation: Annotation, seed: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_explained(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_records(tmp_path, [LANDSCAPE] * 4), KilledWhileReading())
    batches = train_loader(dataset, plan_for(dataset), workers=1)
    with pytest.raises(DataError, match=r"data worker died.*data\.workers=0"):
        next(iter(batches))
