"""resdet: the detection system of the ResNet paper (arXiv:1512.03385) as a toolkit."""

from __future__ import annotations

import os

# albumentations asks a package index for news at import unless this is set before it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
