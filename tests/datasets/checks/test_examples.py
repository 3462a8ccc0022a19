"""The images that the page of a check shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from resdet.datasets.catalog import DataSplit
from resdet.datasets.checks.examples import CELLS, MAX_EXAMPLES, choose_exhibits, images_of
from resdet.datasets.findings import Finding
from resdet.datasets.records import RawImage, RawObject
from resdet.detection.structures import Annotation, Record


def _split(images: list[list[tuple[int, tuple[float, ...]]]], classes: int) -> DataSplit:
    """Images of 100x200 with (label, box) objects."""
    records = []
    for index, objects in enumerate(images):
        boxes = torch.tensor([box for _, box in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label for label, _ in objects], dtype=torch.int64)
        annotation = Annotation(boxes, labels, torch.zeros(len(labels), dtype=torch.bool))
        records.append(Record(f"{index}", Path(f"{index}.png"), (100, 200), annotation))
    return DataSplit(tuple(records), tuple(f"class {label}" for label in range(classes)))


BOX = (0.0, 0.0, 100.0, 50.0)


def test_each_class_has_images_of_its_own() -> None:
    split = _split([[(0, BOX)]] * 8 + [[(0, BOX), (1, BOX)]], 3)
    raw = [
        RawImage(record.image_id, record.path, record.size, (RawObject("x", BOX),), Path("a"))
        for record in split.records
    ]
    chosen = choose_exhibits({"train": raw}, {"train": split}, [], boxes=True)
    first, second = chosen.classes  # class 2 has no object
    assert second.images == (Path("8.png"),)
    assert first.images == tuple(Path(f"{n}.png") for n in (0, 2, 4, 6))
    assert set(chosen.objects) == {*first.images, *second.images}
    assert chosen.sizes == ((200, 100, 9),)


def test_of_many_classes_those_with_most_and_with_fewest_images() -> None:
    split = _split([[(label, BOX)] for label in range(100) for _ in range(100 - label)], 100)
    labels = [each.label for each in choose_exhibits({}, {"train": split}, [], boxes=True).classes]
    half = MAX_EXAMPLES // 2
    assert labels == [*range(half), *range(100 - half, 100)]


def test_places_count_the_boxes_over_each_cell() -> None:
    split = _split([[(0, BOX), (0, (50.0, 0.0, 150.0, 100.0))], [(0, BOX)]], 1)
    places = np.array(choose_exhibits({}, {"train": split}, [], boxes=True).places)
    expected = np.zeros((CELLS, CELLS))
    expected[: CELLS // 2, : CELLS // 2] += 2
    expected[:, CELLS // 4 : CELLS * 3 // 4] += 1
    assert (places == expected).all()


def test_a_box_beyond_the_image_counts_in_the_image() -> None:
    split = _split([[(0, (190.0, 90.0, 400.0, 300.0))]], 1)
    places = np.array(choose_exhibits({}, {"train": split}, [], boxes=True).places)
    assert places.sum() == places[-3:, -2:].sum() > 0


def test_images_without_classes_and_without_anything() -> None:
    chosen = choose_exhibits({}, {"all": _split([[]] * 30, 0)}, [], boxes=False)
    (every,) = chosen.classes
    assert (every.name, len(every.images), chosen.places) == ("", 12, ())
    assert choose_exhibits({}, {}, [], boxes=True).classes == ()


def test_the_images_of_findings_and_their_originals() -> None:
    findings = [
        Finding("same_image", "warning", Path("x"), "", image=Path(f"{n}"), original=Path("0"))
        for n in range(1, 30)
    ]
    assert set(images_of(findings)) == {Path(f"{n}") for n in range(13)}
