"""A resample equals the evaluation of the copied images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from resdet.detection.evaluation.bootstrap import (
    METRICS,
    Draws,
    Estimate,
    Interval,
    bootstrap,
    draw,
)
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.voc import area_ap, precision_recall
from resdet.detection.structures import Annotation, Detections, Record

CLASSES = ("cat", "dog", "eel")


def made_up(images: int, seed: int) -> tuple[list[Record], dict[str, Detections]]:
    """Images with up to four objects of two classes, some of them difficult, found with jitter,
    missed or found twice; scores are all different, as are those of real detectors."""
    generator = np.random.default_rng(seed)
    records, detections = [], {}
    for index in range(images):
        count = int(generator.integers(5))
        corner = generator.uniform(0, 200, size=(count, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(20, 90, (count, 2))], axis=1)
        labels = generator.integers(2, size=count)
        ignore = generator.random(count) < 0.2
        chosen = generator.integers(count, size=count + 2) if count else np.zeros(0, dtype=int)
        jitter = np.sort(generator.normal(0, 6, (len(chosen), 2, 2)), axis=1).reshape(-1, 4)
        wrong = generator.random(len(chosen)) < 0.2
        image_id = f"image{index:03}"
        record = Record(
            image_id,
            Path(f"{image_id}.jpg"),
            (300, 300),
            Annotation(_f32(boxes), torch.tensor(labels), torch.tensor(ignore, dtype=torch.bool)),
        )
        records.append(record)
        detections[image_id] = Detections(
            _f32(boxes[chosen] + jitter),
            _f32(generator.random(len(chosen))),
            torch.tensor(np.where(wrong, 1 - labels[chosen], labels[chosen]), dtype=torch.int64),
        )
    return records, detections


def _f32(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def evaluated_again(
    records: list[Record], detections: dict[str, Detections], counts: list[int], iou: float
) -> float:
    """The mean AP of a data set in which each image is as often as ``counts`` says."""
    copies = [
        (f"{record.image_id}/{copy}", record)
        for record, count in zip(records, counts, strict=True)
        for copy in range(count)
    ]
    many = [Record(name, r.path, r.size, r.annotation) for name, r in copies]
    found = {name: detections[record.image_id] for name, record in copies}
    curves = precision_recall(gather(found, many, len(CLASSES)), iou=iou)
    return float(np.mean([area_ap(curve) for curve in curves if curve.objects]))


def test_every_resample_is_the_evaluation_of_its_images() -> None:
    records, detections = made_up(12, seed=1)
    columns = gather(detections, records, len(CLASSES))
    draws = draw([record.image_id for record in records], resamples=40, seed=7)
    estimates = bootstrap(columns, draws)
    assert list(estimates) == list(METRICS) == ["voc_ap50", "voc_ap75", "voc_ap"]
    for name, ious in METRICS.items():
        expected = [
            np.mean([evaluated_again(records, detections, counts, iou) for iou in ious])
            for counts in draws.counts.T.tolist()
        ]
        assert estimates[name].samples == pytest.approx(expected, rel=1e-12)
    assert np.std(estimates["voc_ap50"].samples) > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_value_is_that_of_the_evaluation_to_the_last_bit(seed: int) -> None:
    records, detections = made_up(15, seed)
    columns = gather(detections, records, len(CLASSES))
    once = Draws(columns.image_ids, np.ones((15, 1), dtype=np.int64))
    estimates = bootstrap(columns, once)
    whole = evaluate(detections, records, CLASSES, coco=None)
    assert estimates["voc_ap50"].value == whole.metrics["voc_ap50"] > 0.2
    for estimate in estimates.values():
        assert estimate.samples == pytest.approx([estimate.value], rel=1e-12)
    values = [
        bootstrap(columns, once, metrics={"one": [iou]})["one"].value for iou in METRICS["voc_ap"]
    ]
    assert len(values) == 10
    assert estimates["voc_ap"].value == pytest.approx(np.mean(values), rel=1e-12)
    assert estimates["voc_ap75"].value == values[5]


def test_draws_count_every_image_and_depend_on_the_seed_alone() -> None:
    ids = [f"image{i}" for i in range(30)]
    first = draw(ids, resamples=500, seed=3)
    assert first.counts.shape == (30, 500)
    assert (first.counts.sum(axis=0) == 30).all()
    assert first.counts.mean(axis=1) == pytest.approx(np.ones(30), abs=0.25)
    again = draw(ids[::-1], resamples=500, seed=3)
    assert again.image_ids == first.image_ids
    assert np.array_equal(again.counts, first.counts)
    assert not np.array_equal(draw(ids, resamples=500, seed=4).counts, first.counts)


def estimate(samples: list[float], draws: Draws | None = None) -> Estimate:
    drawn = draws or Draws((), np.zeros((0, len(samples)), dtype=np.int64))
    return Estimate(0.5, np.array(samples), drawn)


def test_the_interval_holds_the_middle_of_the_resamples() -> None:
    rising = [i / 200 for i in range(201)]
    assert estimate(rising).interval() == Interval(0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert estimate(rising).interval(0.5) == Interval(0.5, 0.25, 0.75)
    some = estimate([math.nan, 0.25, math.nan, 0.25]).interval()
    assert (some.low, some.high) == (0.25, 0.25)
    none = estimate([math.nan, math.nan]).interval()
    assert math.isnan(none.low) and math.isnan(none.high)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """A hundred small test sets: about 95 of their intervals hold the number of all images."""
    records, detections = made_up(400, seed=2)
    metrics = {"voc_ap50": [0.5]}
    ids = [record.image_id for record in records]
    whole = gather(detections, records, len(CLASSES))
    truth = bootstrap(whole, draw(ids, resamples=1), metrics=metrics)["voc_ap50"].value
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        part = [records[i] for i in generator.choice(400, 60, replace=False)]
        found = {record.image_id: detections[record.image_id] for record in part}
        drawn = draw(list(found), resamples=200, seed=trial)
        columns = gather(found, part, len(CLASSES))
        interval = bootstrap(columns, drawn, metrics=metrics)["voc_ap50"].interval()
        covered += interval.low <= truth <= interval.high
    assert covered >= 85


def test_a_paired_difference_is_surer_than_either_number() -> None:
    """The second system lacks every seventh detection of the first."""
    records, detections = made_up(60, seed=3)
    worse = {name: found[torch.arange(len(found)) % 7 != 3] for name, found in detections.items()}
    draws = draw([record.image_id for record in records], resamples=300)
    full, less = (
        bootstrap(gather(found, records, len(CLASSES)), draws)["voc_ap50"]
        for found in (detections, worse)
    )
    gain = full.minus(less)
    assert gain.value == full.value - less.value > 0
    assert np.array_equal(gain.samples, full.samples - less.samples)
    width = gain.interval().high - gain.interval().low
    assert width < 0.7 * (full.interval().high - full.interval().low)
    nothing = full.minus(full).interval()
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)


def test_what_does_not_belong_together_is_refused() -> None:
    records, detections = made_up(5, seed=0)
    columns = gather(detections, records, len(CLASSES))
    ids = [record.image_id for record in records]
    with pytest.raises(ValueError, match="not of the images"):
        bootstrap(columns, draw(ids[1:]))
    one, other = (bootstrap(columns, draw(ids, resamples=2))["voc_ap50"] for _ in range(2))
    with pytest.raises(ValueError, match="same draws"):
        one.minus(other)


def record(image_id: str, *labels: int) -> Record:
    boxes = torch.tensor([[10.0, 10, 40, 40]]).repeat(len(labels), 1)
    ignore = torch.zeros(len(labels), dtype=torch.bool)
    annotation = Annotation(boxes, torch.tensor(labels, dtype=torch.int64), ignore)
    return Record(image_id, Path(f"{image_id}.jpg"), (50, 50), annotation)


def test_nothing_at_all() -> None:
    for records in ([], [record("a")]):
        columns = gather({r.image_id: Detections.empty() for r in records}, records, 2)
        for estimate in bootstrap(columns, draw(columns.image_ids, resamples=3)).values():
            assert math.isnan(estimate.value) and len(estimate.samples) == 3
            assert math.isnan(estimate.interval().low)
    columns = gather({"a": Detections.empty()}, [record("a", 0)], 2)
    assert bootstrap(columns, draw(["a"]))["voc_ap"].interval() == Interval(0.0, 0.0, 0.0)


def test_a_class_counts_where_it_has_objects() -> None:
    """Cats are all found, dogs never; a resample without the image of the dog is perfect."""
    box = torch.tensor([[10.0, 10, 40, 40]])
    cat = Detections(box, torch.tensor([0.9]), torch.tensor([0]))
    columns = gather({"a": cat, "b": Detections.empty()}, [record("a", 0), record("b", 1)], 3)
    drawn = Draws(("a", "b"), np.array([[2, 1, 0], [0, 1, 2]]))
    assert bootstrap(columns, drawn)["voc_ap50"].samples.tolist() == [1.0, 0.5, 0.0]
    lone = gather({"a": cat, "b": Detections.empty()}, [record("a", 0), record("b")], 3)
    samples = bootstrap(lone, drawn)["voc_ap50"].samples
    assert samples[:2].tolist() == [1.0, 1.0] and math.isnan(samples[2])


def test_many_rows_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    records, detections = made_up(10, seed=4)
    columns = gather(detections, records, len(CLASSES))
    draws = draw(columns.image_ids, resamples=23)
    whole = bootstrap(columns, draws)["voc_ap50"].samples
    monkeypatch.setattr("resdet.detection.evaluation.bootstrap._CHUNK", 50)
    assert np.array_equal(bootstrap(columns, draws)["voc_ap50"].samples, whole)
