"""resdet: the detection system of the ResNet paper (arXiv:1512.03385) as a toolkit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection.inference.predictor import Predictor as Predictor
    from .detection.predictor import load as load

# albumentations asks a package index for news at import unless this is set before it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``resdet.load`` and ``resdet.Predictor``, imported when first used: torch takes seconds."""
    if name in {"load", "Predictor"}:
        from .detection import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
