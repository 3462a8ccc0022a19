"""An image with one object that `SpotFinder` finds."""

from __future__ import annotations

import numpy as np
from PIL import Image


def spot_image() -> Image.Image:
    """60 x 40, with a red square of 20 pixels at (10, 5)."""
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    pixels[5:25, 10:30] = (250, 20, 20)
    return Image.fromarray(pixels)
