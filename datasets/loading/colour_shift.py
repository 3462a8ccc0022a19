"""How does the paper change the colours of training images?"""

from __future__ import annotations

import cv2
import numpy as np

#: Principal components of the pixels of ImageNet in [0, 1], RGB, for the colour augmentation of
#: Krizhevsky et al. (NIPS 2012), which gives none; these are those of facebook/fb.resnet.torch.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
#: One row for each colour channel, one column for each component.
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def shift_colour(pixels: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """``pixels`` (h, w, 3) plus ``multiples`` (3,) of the components of colour, rounded."""
    shift = PCA_VECTORS @ (multiples * PCA_VALUES) * 255
    if not shift.any():
        return pixels
    table = np.clip(np.rint(np.arange(256)[:, None] + shift), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(pixels), table[None])
