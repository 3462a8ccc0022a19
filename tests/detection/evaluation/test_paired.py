"""Paired comparisons: by hand, their symmetry, what is refused, and how often intervals cover."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.evaluation.bootstrap import bootstrap, bootstrap_means, draw
from resdet.detection.evaluation.columns import Columns, FoundColumns, TruthColumns, checked
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.image_records import (
    ImageRecords,
    read_images,
    records_of,
    write_images,
)
from resdet.detection.evaluation.paired import compare_records, conclusion, write_comparison

CLASSES = ("cat", "dog")


def scored(errors: list[int], classes: tuple[str, ...] = CLASSES, **changes: Any) -> ImageRecords:
    """A classifier's file with the top-1 errors of the images 0, 1 .."""
    images = [
        {"image": str(n), "wrong": e, "label": 0, "values": {"top1_error": e, "loss": e / 4}}
        for n, e in enumerate(errors)
    ]
    header = {"task": "classification", "classes": classes} | changes
    return records_of(Path("x.json"), header, images)


def population(generator: np.random.Generator, images: int, quality: float) -> Columns:
    """Objects of 20 x 20 px, each found with a chance, of scores that are higher where right."""
    count = generator.integers(1, 4, size=images)
    where = np.repeat(np.arange(images), count)
    corner = np.stack([50.0 * np.concatenate([np.arange(n) for n in count]), where * 0.0], axis=1)
    boxes = np.concatenate([corner, corner + 20], axis=1)
    labels = generator.integers(0, 2, size=len(where))
    truth = TruthColumns(
        boxes, labels, where, np.zeros(len(where), dtype=bool), np.full(len(where), 400.0)
    )
    return checked(
        Columns(tuple(map(str, range(images))), 2, truth, guesses(generator, truth, quality))
    )


def guesses(generator: np.random.Generator, truth: TruthColumns, quality: float) -> FoundColumns:
    """Detections of a detector that finds a ``quality`` of the objects."""
    right = generator.random(len(truth.labels)) < quality
    boxes = np.where(right[:, None], truth.boxes, truth.boxes + 200)
    scores = np.clip(generator.normal(np.where(right, 0.6, 0.4), 0.15), 0, 1)
    return FoundColumns(boxes, truth.labels, truth.images, scores)


def detected(columns: Columns, classes: tuple[str, ...] = CLASSES) -> ImageRecords:
    evaluation = evaluate_columns(columns, classes, coco=None)
    header = {"task": "detection", "classes": classes}
    return records_of(Path("y.json"), header, evaluation.image_entries())


def test_errors_by_hand() -> None:
    """Five images: the first is wrong on 0 and 1, the second on 1 and 4 of them."""
    one, other = scored([1, 1, 0, 0, 0]), scored([0, 1, 0, 0, 0])
    result = compare_records(one, other, resamples=4000)
    top1, loss = result.metrics
    assert (top1.first.value, top1.second.value) == (0.4, 0.2)
    assert top1.difference.value == pytest.approx(-0.2)
    # The image that changed is drawn k times in 5 of 5: binomial of 1/5, and -0 is a tie.
    assert top1.better == pytest.approx(1 - 0.5 * 0.8**5, abs=0.02)
    assert (top1.difference.low, top1.difference.high) == pytest.approx((-0.6, 0.0), abs=1e-9)
    assert loss.difference.value == pytest.approx(-0.05)
    assert [row["image"] for row in result.images] == ["1", "2", "3", "4", "0"]
    assert result.images[-1]["wrong_first"] == 1 and result.images[-1]["wrong_second"] == 0
    assert "contains 0" in conclusion(top1)


def test_detections_are_those_of_the_bootstrap() -> None:
    generator = np.random.default_rng(1)
    one = population(generator, 40, 0.7)
    other = Columns(one.image_ids, 2, one.truth, guesses(generator, one.truth, 0.5))
    result = compare_records(detected(one), detected(other), resamples=200, seed=3)
    draws = draw(one.image_ids, resamples=200, seed=3)
    estimates = [bootstrap(columns, draws)["voc_ap50"] for columns in (one, other)]
    (ap50, _ap) = result.metrics
    expected = estimates[1].minus(estimates[0])
    assert ap50.difference == expected.interval() and ap50.first == estimates[0].interval()
    assert ap50.better == expected.probability() < 0.05
    assert "the first one is better" in conclusion(ap50)
    assert [row.name for row in result.per_class] == list(CLASSES)
    own = [evaluate_columns(one, CLASSES, coco=None).per_class[k].voc_ap50 for k in (0, 1)]
    assert [row.first.value for row in result.per_class] == pytest.approx(own)


def test_with_itself_and_swapped() -> None:
    generator = np.random.default_rng(2)
    one = population(generator, 30, 0.8)
    other = Columns(one.image_ids, 2, one.truth, guesses(generator, one.truth, 0.6))
    same = compare_records(detected(one), detected(one), resamples=50).metrics[0]
    assert (same.difference.low, same.difference.high, same.better) == (0, 0, 0.5)
    there = compare_records(detected(one), detected(other), resamples=50)
    back = compare_records(detected(other), detected(one), resamples=50)
    for a, b in zip(there.metrics, back.metrics, strict=True):
        assert a.difference.value == -b.difference.value and a.better == 1 - b.better


def test_classes_in_another_order() -> None:
    generator = np.random.default_rng(4)
    one = population(generator, 20, 0.8)
    truth, found = one.truth, one.found
    turned = Columns(
        one.image_ids,
        2,
        TruthColumns(truth.boxes, 1 - truth.labels, truth.images, truth.ignore, truth.areas),
        FoundColumns(found.boxes, 1 - found.labels, found.images, found.scores),
    )
    result = compare_records(detected(one), detected(turned, CLASSES[::-1]), resamples=20)
    assert result.metrics[0].difference.value == 0 and result.per_class[0].difference.value == 0


def test_what_is_refused() -> None:
    one = scored([0, 1, 1])
    with pytest.raises(DataError, match=r"lacks 1 images of x\.json: '2'"):
        compare_records(one, scored([0, 1]))
    with pytest.raises(DataError, match=r"lacks 2 images of x\.json: '3'; '4'"):
        compare_records(one, scored([0, 1, 1, 0, 0]))
    with pytest.raises(DataError, match=r"lacks 1 classes of x\.json: 'dog'"):
        compare_records(one, scored([0, 1, 1], ("cat", "cow")))
    with pytest.raises(DataError, match=r"another class of 3 images: '0'; '1'; '2'"):
        compare_records(one, scored([0, 1, 1], ("dog", "cat")))
    with pytest.raises(ConfigError, match=r"classification, .*localization"):
        compare_records(one, scored([0, 1, 1], task="localization"))
    generator = np.random.default_rng(0)
    columns = population(generator, 5, 0.5)
    moved = columns.truth.boxes.copy()
    moved[columns.truth.images == 3] += 1
    truth = columns.truth
    other = TruthColumns(moved, truth.labels, truth.images, truth.ignore, truth.areas)
    changed = Columns(columns.image_ids, 2, other, columns.found)
    with pytest.raises(DataError, match="other objects in 1 images: '3'"):
        compare_records(detected(columns), detected(changed))


def test_files(tmp_path: Path) -> None:
    """What is read again is what was evaluated, to the last bit; damaged files are refused."""
    columns = population(np.random.default_rng(7), 12, 0.6)
    records = detected(columns)
    path = tmp_path / "images.json"
    write_images(path, records.header, records.images)
    again = read_images(tmp_path)
    assert again.classes == CLASSES and again.image_ids == columns.image_ids
    for part in ("truth", "found"):
        for name, value in vars(getattr(columns, part)).items():
            assert (getattr(getattr(again.columns(), part), name) == value).all(), name
    wrong = [each["wrong"] for each in again.images]
    assert wrong == sorted(wrong, reverse=True) and wrong[0] > 0
    result = compare_records(records, again, resamples=10)
    write_comparison(result, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["metrics"][0]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    for text in ("[]", "{}", '{"version": 1}', '{"version": 99, "images": []}', "{"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"images\.json: "):
            read_images(path)
    with pytest.raises(ConfigError, match="`resdet eval` writes it"):
        read_images(tmp_path / "none.json")


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_intervals_of_errors_cover_the_truth(confidence: float) -> None:
    """400 samples of 100 images: the true difference of the errors is 0.1."""
    generator, covered = np.random.default_rng(11), 0
    ids = [str(number) for number in range(100)]
    draws = draw(ids, resamples=300)
    for _ in range(400):
        hard = generator.random(100)  # shared by both
        one, other = ((hard + 0.5 * generator.random(100) > limit) * 1.0 for limit in (0.9, 1.05))
        a = bootstrap_means({"error": one}, draws)["error"]
        b = bootstrap_means({"error": other}, draws)["error"]
        interval = b.minus(a).interval(confidence)
        # P(hard + u/2 > t) for t in (0.5, 1): 1.25 - t; above 1: (1.5 - t)² for t in (1, 1.5).
        covered += interval.low <= 0.45**2 - 0.35 <= interval.high
    assert covered / 400 == pytest.approx(confidence, abs=0.04 if confidence > 0.9 else 0.09)


def test_intervals_of_ap_cover_the_truth() -> None:
    """300 samples of 100 images; the truth is that of 20,000 images."""
    generator = np.random.default_rng(13)
    large = population(generator, 20_000, 0.75)
    no_draws = draw(large.image_ids, resamples=0)
    second = Columns(large.image_ids, 2, large.truth, guesses(generator, large.truth, 0.65))
    wanted = {"ap": (0.5,)}
    a, b = (bootstrap(each, no_draws, metrics=wanted)["ap"].value for each in (large, second))
    covered = {0.95: 0, 0.5: 0}
    for seed in range(300):
        one = population(generator, 100, 0.75)
        other = Columns(one.image_ids, 2, one.truth, guesses(generator, one.truth, 0.65))
        draws = draw(one.image_ids, resamples=200, seed=seed)
        first, last = (bootstrap(each, draws, metrics=wanted)["ap"] for each in (one, other))
        for confidence in covered:
            interval = last.minus(first).interval(confidence)
            covered[confidence] += interval.low <= b - a <= interval.high
    assert covered[0.95] / 300 >= 0.89 and 0.42 <= covered[0.5] / 300 <= 0.6
