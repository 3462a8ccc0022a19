"""Labels stay in the image with their score; drawing is bounded."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.drawing import DrawnBox, _shortened, draw_boxes

RED = (255, 0, 0)


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_a_label_lies_in_a_large_box_and_above_a_small_one() -> None:
    large = draw_boxes(black(200, 300), [DrawnBox((50, 60, 250, 160), RED, "cat")])
    small = draw_boxes(black(200, 300), [DrawnBox((50, 60, 62, 72), RED, "cat")])
    assert not large[:60].any()
    assert small[47:60, 50:70].any() and not small[61:72, 52:61].any()


@pytest.mark.parametrize("name", ["cat", "a very long class name that fits in no image " * 3])
@pytest.mark.parametrize("box", [(-5, -5, 20, 20), (190, 90, 240, 140), (150, 50, 180, 80)])
def test_the_score_is_inside_the_image_whatever_the_name_and_the_place(
    name: str, box: tuple[float, ...]
) -> None:
    """Two scores differ at the right end of the label, so its last digits are visible."""
    one, two = (
        draw_boxes(black(100, 200), [DrawnBox(box, RED, name, score)]) for score in (0.81, 0.87)
    )
    places = np.nonzero((one != two).any(axis=2))
    assert places[0].size >= 5
    # All of the digit: it is 6 to 9 pixels high in a font of 10 pixels.
    assert np.ptp(places[0]) >= 5


def test_long_names_end_in_an_ellipsis() -> None:
    assert _shortened("cat", 10, 100.0) == "cat"
    short = _shortened("a very long class name", 10, 60.0)
    assert short.endswith("…") and "a very".startswith(short[:-1][:6])
    # The mark stays with its letter.
    assert not _shortened("o\u0301" * 50, 10, 60.0)[:-1].endswith("o")
    assert _shortened("cat", 10, 0.0) == "…"


def test_ignored_objects_are_dashed_and_boxes_that_are_not_finite_left_out() -> None:
    solid, dashed = (
        draw_boxes(black(200, 300), [DrawnBox((50, 60, 250, 160), RED, dashed=dashed)])
        for dashed in (False, True)
    )
    assert 0.3 < dashed.any(axis=2).sum() / solid.any(axis=2).sum() < 0.8
    nothing = [DrawnBox((float("nan"), 0, 5, 5), RED, "a"), DrawnBox((0, 0, float("inf"), 1), RED)]
    assert not draw_boxes(black(20, 20), nothing).any()


@settings(max_examples=50)
@given(
    st.tuples(*[st.floats(-1e7, 1e7)] * 4),
    st.text(max_size=40).map(lambda text: "".join(filter(str.isprintable, text))),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_box_and_name_on_any_image(
    box: tuple[float, ...], name: str, size: tuple[int, int]
) -> None:
    assert draw_boxes(black(*size), [DrawnBox(box, RED, name, 0.5)]).shape == (*size, 3)


def test_2500_boxes_cost_less_than_a_second_of_computing() -> None:
    boxes = [
        DrawnBox((x, y, x + 12, y + 12), RED, "cat", (x + y) % 100 / 100)
        for y in range(0, 1000, 20)
        for x in range(0, 1000, 20)
    ]
    started = time.process_time()
    draw_boxes(black(1000, 1000), boxes)
    assert len(boxes) == 2500
    assert time.process_time() - started < 1.0
