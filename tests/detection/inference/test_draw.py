"""Drawings: boxes lie where the detections are, in the colour of their class."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import torch
from resdet.detection.drawing import class_colour
from resdet.detection.inference.draw import draw_detections
from resdet.detection.structures import Detections

CLASSES = ("cat", "собака", "犬")


def black(height: int = 200, width: int = 300) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def detection(label: int, box: tuple[float, ...] = (50.0, 60.0, 250.0, 160.0)) -> Detections:
    return Detections(torch.tensor([box]), torch.tensor([0.87]), torch.tensor([label]))


def test_the_outline_has_the_colour_of_the_class():
    for label in range(len(CLASSES)):
        drawn = draw_detections(black(), detection(label), CLASSES)
        colour = list(class_colour(label))
        for x, y in [(150, 60), (150, 160), (50, 130), (250, 130)]:
            assert drawn[y, x].tolist() == colour
        assert not drawn[:58].any() and not drawn[163:].any()


def test_the_caption_depends_on_the_name_and_the_score():
    first = draw_detections(black(), detection(0), CLASSES)
    other_name = draw_detections(black(), detection(0), ("dog", *CLASSES[1:]))
    other_score = detection(0)
    other_score.scores[0] = 0.12
    assert not np.array_equal(first, other_name)
    assert not np.array_equal(first, draw_detections(black(), other_score, CLASSES))


def test_non_latin_letters_are_drawn():
    """A font without a letter draws the same empty box for any."""
    one = draw_detections(black(), detection(0), ("д",))
    two = draw_detections(black(), detection(0), ("ж",))
    assert not np.array_equal(one, two)


def test_the_best_detection_is_on_top():
    box = torch.tensor([[50.0, 60.0, 250.0, 160.0]]).repeat(2, 1)
    pair = Detections(box, torch.tensor([0.9, 0.3]), torch.tensor([0, 1]))
    drawn = draw_detections(black(), pair, CLASSES)
    assert drawn[160, 150].tolist() == list(class_colour(0))


def test_nothing_found_leaves_the_image_and_never_shares_memory():
    image = black()
    drawn = draw_detections(image, Detections.empty(), CLASSES)
    assert np.array_equal(drawn, image)
    drawn[:] = 1
    draw_detections(image, detection(1), CLASSES)
    assert not image.any()


def test_lines_are_thicker_on_larger_images():
    def thickness(scale: int) -> int:
        found = detection(0, (50.0 * scale, 60.0 * scale, 250.0 * scale, 160.0 * scale))
        drawn = draw_detections(black(200 * scale, 300 * scale), found, CLASSES)
        return int(drawn[120 * scale :, 150 * scale].any(axis=1).sum())

    assert 1 <= thickness(1) < thickness(5) < thickness(10)


def test_boxes_across_the_border_and_tiny_images_are_drawn():
    found = detection(0, (-20.0, -20.0, 30.0, 500.0))
    assert draw_detections(black(), found, CLASSES).any()
    assert draw_detections(black(1, 1), found, CLASSES).shape == (1, 1, 3)


def test_neighbouring_classes_have_different_colours():
    colours = [class_colour(label) for label in range(80)]
    assert len(set(colours)) == 80
    near = min(
        sum(abs(a - b) for a, b in zip(one, two, strict=True)) for one, two in pairwise(colours)
    )
    assert near > 100
    firsts = [
        sum(abs(a - b) for a, b in zip(one, two, strict=True))
        for one, two in combinations(colours[:6], 2)
    ]
    assert min(firsts) > 70
