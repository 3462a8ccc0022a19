"""The training crop for small images: every shift within the padding, mirrored or not."""

from __future__ import annotations

import numpy as np
from resdet.datasets.loading.crops import PaddedCrop

IMAGE = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)


def test_all_shifts_and_both_sides_occur_and_nothing_else() -> None:
    """A place of the 3 x 3 for padding 1, times two; what comes from outside is black."""
    larger = np.zeros((8, 8, 3), np.uint8)
    larger[1:7, 1:7] = IMAGE
    parts = [larger[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    expected = {part.tobytes() for part in [*parts, *(part[:, ::-1] for part in parts)]}
    crop = PaddedCrop(size=6, padding=1)
    assert {crop(IMAGE, seed).numpy().tobytes() for seed in range(300)} == expected


def test_without_padding_or_flip_it_is_the_image() -> None:
    assert np.array_equal(PaddedCrop(6, padding=0, flip=0.0)(IMAGE, 5).numpy(), IMAGE)


def test_other_images_are_resized_first() -> None:
    assert PaddedCrop(6)(np.zeros((12, 18, 3), np.uint8), 0).shape == (6, 6, 3)
