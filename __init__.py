"""resdet: the detection system of the ResNet paper (arXiv:1512.03385) as a toolkit."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets.checks.check import Report as Report
    from .datasets.findings import Finding as Finding
    from .detection.cluster import ray as ray
    from .detection.errors import ConfigError as ConfigError
    from .detection.errors import DataError as DataError
    from .detection.errors import DivergedError as DivergedError
    from .detection.errors import ImageError as ImageError
    from .detection.errors import ResdetError as ResdetError
    from .detection.errors import WeightsError as WeightsError
    from .detection.evaluation.report import Evaluation as Evaluation
    from .detection.inference.folder import FolderSummary as FolderSummary
    from .detection.inference.image_results import FailedImage as FailedImage
    from .detection.inference.image_results import ImageResult as ImageResult
    from .detection.inference.predictor import Predictor as Predictor
    from .detection.inference.result_types import ClassResult as ClassResult
    from .detection.inference.result_types import ClassScore as ClassScore
    from .detection.inference.result_types import Detection as Detection
    from .detection.inference.result_types import DetectionResult as DetectionResult
    from .detection.predictor import load as load
    from .detection.tasks.trained_run import TrainedRun as TrainedRun
    from .tools.functions import check_data as check_data
    from .tools.functions import evaluate as evaluate
    from .tools.functions import infer as infer
    from .tools.functions import train as train

# albumentations asks a package index for news at import unless this is set before it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"

_ERRORS = ("ConfigError", "DataError", "DivergedError", "ImageError", "ResdetError", "WeightsError")
#: The module of each public name, imported when the name is first used: torch takes seconds.
_MODULES = {
    "load": "detection.predictor",
    "Predictor": "detection.inference.predictor",
    "ImageResult": "detection.inference.image_results",
    "FailedImage": "detection.inference.image_results",
    **dict.fromkeys(
        ("DetectionResult", "ClassResult", "Detection", "ClassScore"),
        "detection.inference.result_types",
    ),
    **dict.fromkeys(("train", "evaluate", "check_data", "infer"), "tools.functions"),
    "TrainedRun": "detection.tasks.trained_run",
    "Evaluation": "detection.evaluation.report",
    "Report": "datasets.checks.check",
    "Finding": "datasets.findings",
    "FolderSummary": "detection.inference.folder",
    **dict.fromkeys(_ERRORS, "detection.errors"),
}


#: The modules that are public themselves.
_SUBMODULES = {"ray": "detection.cluster.ray"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{_SUBMODULES[name]}")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_MODULES, *_SUBMODULES, "__doc__", "__name__", "__version__"])
