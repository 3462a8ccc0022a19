"""resdet: the detection system of the ResNet paper (arXiv:1512.03385) as a toolkit."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection.errors import ConfigError as ConfigError
    from .detection.errors import DataError as DataError
    from .detection.errors import DivergedError as DivergedError
    from .detection.errors import ImageError as ImageError
    from .detection.errors import ResdetError as ResdetError
    from .detection.errors import WeightsError as WeightsError
    from .detection.inference.image_results import FailedImage as FailedImage
    from .detection.inference.image_results import ImageResult as ImageResult
    from .detection.inference.predictor import Predictor as Predictor
    from .detection.inference.result_types import ClassResult as ClassResult
    from .detection.inference.result_types import ClassScore as ClassScore
    from .detection.inference.result_types import Detection as Detection
    from .detection.inference.result_types import DetectionResult as DetectionResult
    from .detection.predictor import load as load

# albumentations asks a package index for news at import unless this is set before it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"

_ERRORS = ("ConfigError", "DataError", "DivergedError", "ImageError", "ResdetError", "WeightsError")
#: The module of each public name, imported when the name is first used: torch takes seconds.
_MODULES = {
    "load": "predictor",
    "Predictor": "inference.predictor",
    "ImageResult": "inference.image_results",
    "FailedImage": "inference.image_results",
    **dict.fromkeys(
        ("DetectionResult", "ClassResult", "Detection", "ClassScore"), "inference.result_types"
    ),
    **dict.fromkeys(_ERRORS, "errors"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.detection.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__doc__", "__name__", "__version__"])
