"""The confusion matrix, worked by hand, and its sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.confusion import confusion
from resdet.detection.structures import Annotation, Detections, Record

CAT, DOG, NOTHING = 0, 1, 2
HERE, THERE, FAR = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def truth(objects: list[tuple[tuple[float, ...], int, bool]]) -> Annotation:
    return Annotation(
        torch.tensor([box for box, _, _ in objects]).reshape(-1, 4),
        torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
        torch.tensor([ignore for _, _, ignore in objects], dtype=torch.bool),
    )


def found(items: list[tuple[tuple[float, ...], int, float]]) -> Detections:
    return Detections(
        torch.tensor([box for box, _, _ in items]).reshape(-1, 4),
        torch.tensor([score for _, _, score in items]),
        torch.tensor([label for _, label, _ in items], dtype=torch.int64),
    )


def counts(objects: list, items: list, classes: int = 2, **options: float) -> list[list[int]]:
    record = Record("a", Path("a.jpg"), (100, 100), truth(objects))
    return confusion(gather({"a": found(items)}, [record], classes), **options).counts.tolist()


def test_right_mistaken_missed_and_invented() -> None:
    objects = [(HERE, CAT, False), (THERE, CAT, False), (FAR, DOG, False)]
    items = [(HERE, CAT, 0.9), (THERE, DOG, 0.8), ((70.0, 0.0, 80.0, 10.0), DOG, 0.7)]
    #       truly: cat dog nothing
    expected = [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert counts(objects, items) == expected


def test_the_second_on_an_object_is_invented_and_the_surer_takes_it() -> None:
    items = [(HERE, CAT, 0.5), (HERE, DOG, 0.6)]
    assert counts([(HERE, CAT, False)], items) == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_scores_below_the_threshold_do_not_count() -> None:
    items = [(HERE, CAT, 0.24), (THERE, DOG, 0.25)]
    assert counts([(HERE, CAT, False)], items) == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert counts([(HERE, CAT, False)], items, score=0.1) == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_ignored_objects_neither_count_nor_blame() -> None:
    items = [(HERE, DOG, 0.9)]
    assert counts([(HERE, CAT, True)], items) == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_nothing_at_all() -> None:
    assert confusion(gather({}, [], 2)).counts.tolist() == [[0] * 3] * 3
    assert counts([], []) == [[0] * 3] * 3


BOXES = st.sampled_from([HERE, THERE, FAR, (1.0, 1.0, 11.0, 11.0), (0.0, 0.0, 30.0, 10.0)])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(BOXES, st.integers(0, 2), st.booleans()), max_size=6),
    st.lists(st.tuples(BOXES, st.integers(0, 2), st.floats(0, 1, width=32)), max_size=8),
)
def test_columns_sum_to_the_objects_and_rows_to_no_more_than_the_detections(
    objects: list, items: list
) -> None:
    table = np.array(counts(objects, items, classes=3))
    for label in range(3):
        assert table[:, label].sum() == sum(
            name == label and not ignore for _, name, ignore in objects
        )
        kept = sum(name == label and score >= 0.25 for _, name, score in items)
        assert table[label].sum() <= kept
    assert table[3, 3] == 0
