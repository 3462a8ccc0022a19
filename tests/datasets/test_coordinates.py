"""Boxes that contradict their coordinate convention give a warning, others none."""

from __future__ import annotations

from pathlib import Path

import pytest
from resdet.datasets.coordinates import Coordinates, check_coordinates, count_edges
from resdet.datasets.records import RawBox, RawImage, RawObject


def _images(*boxes: RawBox) -> list[RawImage]:
    return [
        RawImage(f"{number}", Path("a.jpg"), (50, 100), (RawObject("dog", box),), Path("a.xml"))
        for number, box in enumerate(boxes)
    ]


FAR: list[RawBox] = [(40, 10, 100, 30)] * 10
CASES: list[tuple[Coordinates, list[RawBox], list[str]]] = [
    ("one_based", [(0, 0, 100, 50), *FAR], []),
    ("one_based", [(-1, 5, 9, 9)], ["zero_based_coordinates"]),
    ("one_based", [(-3, 5, 9, 9)], []),  # outside, whatever it counts from
    ("zero_based", [(1, 1, 9, 9), *FAR], ["one_based_coordinates"]),
    ("zero_based", [(0, 1, 9, 9), *FAR], []),
    ("zero_based", [(1, 1, 9, 9), *FAR[:5]], []),  # too few to tell
    ("zero_based", [(2, 2, 9, 9), *FAR], []),
    ("zero_based", [], []),
    ("one_based", [], []),
]


@pytest.mark.parametrize(("coordinates", "boxes", "kinds"), CASES)
def test_questions(coordinates: Coordinates, boxes: list[RawBox], kinds: list[str]) -> None:
    found = check_coordinates(_images(*boxes), coordinates)
    assert [finding.kind for finding in found] == kinds


def test_counts() -> None:
    edges = count_edges(_images((-1, 0, 5, 5), (0, 3, 100, 9), (1, 4, 7, 50), (5, 6, 7, 8)))
    assert (edges.boxes, edges.before, edges.at_zero, edges.at_one, edges.at_far_edge) == (
        4,
        1,
        2,
        1,
        2,
    )
