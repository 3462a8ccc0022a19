"""A narrow detector and images of coloured squares for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from resdet.datasets.loading.transforms import EvalTransform
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.inference.pipeline import DetectorMember, Pipeline
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.ops.nms import suppress
from resdet.detection.structures import Annotation, Batch, Detections, Geometry, Sample
from resdet.detection.tasks.detector_network import build_detector

Box = tuple[float, float, float, float]
COLOURS = torch.tensor([[220, 30, 40], [30, 60, 230]], dtype=torch.uint8)


def tiny_model(**sections: dict[str, Any]) -> FasterRCNN:
    """ResNet-18 C4 of width 8 with two classes; ``sections`` go before these settings."""
    settings: dict[str, dict[str, Any]] = {
        "backbone": {"depth": 18, "width": 8, "norm": "group", "frozen_stages": 0},
        "rpn": {
            "channels": 16,
            "anchor_sizes": (16.0, 32.0, 64.0),
            "batch_per_image": 32,
            "pre_nms_train": 200,
            "post_nms_train": 50,
            "pre_nms_test": 200,
            "post_nms_test": 30,
        },
        "roi": {"pool_size": 7, "tail_stride": 1, "batch_per_image": 16},
    }
    merged = {
        name: {**settings.get(name, {}), **sections.get(name, {})}
        for name in settings.keys() | sections.keys()
    }
    return build_detector(DetectorConfig(**merged), 2)


def make_sample(
    boxes: Sequence[Box],
    *,
    size: tuple[int, int] = (96, 128),
    ignore: Sequence[bool] | None = None,
    seed: int = 0,
) -> Sample:
    """Squares of two colours by turns on a noisy grey; class k has colour k."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(90, 130, (height, width, 3), generator=generator).to(torch.uint8)
    labels = torch.arange(len(boxes)) % 2
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[int(y1) : int(y2), int(x1) : int(x2)] = COLOURS[label]
    flags = torch.tensor(list(ignore or [False] * len(boxes)), dtype=torch.bool)
    annotation = Annotation(torch.tensor(boxes).float().reshape(-1, 4), labels, flags)
    return Sample(image, annotation, Geometry(size), image_id=f"{seed}", seed=seed)


def detect_with(
    model: FasterRCNN, samples: Sequence[Sample], *, limit: int = 100, threshold: float = 0.0
) -> list[Detections]:
    """The detections of samples of network size, from the pipeline without options."""
    pipeline = Pipeline(
        [DetectorMember(model, (EvalTransform(96, 128),))],
        suppress=partial(suppress, nms_iou=0.5, max_detections=limit),
        score_threshold=threshold,
    )
    return pipeline.predict(Batch.collate(samples))


@pytest.fixture(scope="session")
def detect() -> Callable[..., list[Detections]]:
    return detect_with


@pytest.fixture(scope="session")
def tiny() -> Callable[..., FasterRCNN]:
    return tiny_model


@pytest.fixture(scope="session")
def squares() -> Callable[..., Sample]:
    return make_sample
