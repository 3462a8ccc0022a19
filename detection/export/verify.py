"""Comparison of an exported network with its checkpoint, on images of several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.loading.transforms import resized_size
from ..errors import WeightsError
from ..evaluation.prediction import Network
from ..inference.pipeline import Pipeline
from ..structures import Annotation, Batch, Detections, Geometry, Sample

#: Largest errors of an export: of boxes in px, of scores, and the share of detections that have no
#: counterpart. NMS decides by thresholds, so that a rounding error may exchange two boxes.
BOX_BOUND, SCORE_BOUND, LOST_BOUND = 0.05, 1e-3, 0.02


@dataclass(frozen=True)
class Agreement:
    """The largest differences of results that are the same in two models: of detections, or of the
    boxes or scores of given classes.

    ``lost`` of those ``compared`` have no counterpart of their class within the bounds.
    """

    size: tuple[int, int]
    batch: int
    content: str
    compared: int
    lost: int
    box_error: float
    score_error: float


def verify(exported: Network[Detections], pipeline: Pipeline) -> list[Agreement]:
    """The agreement on `trials`; raises WeightsError above the bounds."""
    found = []
    first = pipeline.transforms[0]
    for content, images in trials(first.short_side, first.long_side_max):
        batch = as_batch(images)
        pairs = zip(exported.predict(batch), pipeline.predict(batch), strict=True)
        parts = [compare(own, wanted) for own, wanted in pairs]
        total, lost, boxes, scores = (list(column) for column in zip(*parts, strict=True))
        size = (images[0].shape[0], images[0].shape[1])
        one = Agreement(size, len(images), content, sum(total), sum(lost), max(boxes), max(scores))
        found.append(expect_agreement(one))
    return found


def expect_agreement(one: Agreement) -> Agreement:
    """The same; raises WeightsError above the bounds."""
    if one.lost > LOST_BOUND * one.compared:
        raise WeightsError(
            f"the exported model differs from the checkpoint: at {one.size[0]}x{one.size[1]}, "
            f"{one.batch} image(s), {one.lost} of {one.compared} results are more than "
            f"{BOX_BOUND} px or {SCORE_BOUND} in score away; nothing was written"
        )
    return one


def trials(short: int, limit: int) -> Iterator[tuple[str, list[NDArray[np.uint8]]]]:
    """Images (h, w, 3) at three network sizes, for sides of at least ``short`` and at most
    ``limit``, one and three together, and one without content."""
    sizes = [
        resized_size((3, 4), short, limit),
        resized_size((3, 2), max(16, short // 2), max(16, limit // 2)),
        resized_size((7, 11), max(16, short // 3 + 5), max(16, limit // 3)),
    ]
    seed = 0
    for size, count in ((sizes[0], 1), (sizes[1], 1), (sizes[1], 3), (sizes[2], 1), (sizes[2], 3)):
        yield "shapes", [draw_shapes(size, seed + index) for index in range(count)]
        seed += count
    yield "nothing", [np.full((*sizes[2], 3), 128, np.uint8)]


def agreement(
    content: str, images: Tensor, scores: tuple[Tensor, Tensor], boxes: tuple[Tensor, Tensor]
) -> Agreement:
    """The agreement of two models' scores (...) and boxes (..., 4), in order, for images
    (N, 3, H, W); raises WeightsError above the bounds. NaN has no counterpart."""
    apart, distance = (scores[0] - scores[1]).abs(), (boxes[0] - boxes[1]).abs().amax(dim=-1)
    fits = (apart <= SCORE_BOUND) & (distance <= BOX_BOUND)
    size = (images.shape[2], images.shape[3])
    lost = int((~fits).sum())
    most = [float(each[fits].max()) if fits.any() else 0.0 for each in (distance, apart)]
    return expect_agreement(
        Agreement(size, len(images), content, fits.numel(), lost, most[0], most[1])
    )


def draw_shapes(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """An image (h, w, 3) with coloured shapes on a rough background, the same for a ``seed``."""
    random = np.random.default_rng(seed)
    height, width = size
    coarse = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        colour = tuple(map(int, random.integers(0, 256, 3)))
        centre = int(random.integers(width)), int(random.integers(height))
        axes = int(random.integers(2, width // 4 + 3)), int(random.integers(2, height // 4 + 3))
        if random.random() < 0.5:
            cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1)
        else:
            corner = centre[0] + axes[0], centre[1] + axes[1]
            cv2.rectangle(image, centre, corner, colour, -1)
    noise = random.integers(-12, 13, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def as_batch(images: list[NDArray[np.uint8]]) -> Batch:
    """Images of one size as the network's input, as they are."""
    samples = [
        Sample(
            torch.from_numpy(image),
            Annotation.empty(),
            Geometry((image.shape[0], image.shape[1])),
            image_id=str(index),
        )
        for index, image in enumerate(images)
    ]
    return Batch.collate(samples, pad=False)


def compare(found: Detections, wanted: Detections) -> tuple[int, int, float, float]:
    """How many detections are ``wanted``, how many of them or of those ``found`` have no
    counterpart, and the largest errors, px and score, of the others."""
    total, lost = max(len(wanted), len(found)), abs(len(wanted) - len(found))
    if not len(wanted) or not len(found):
        return total, lost, 0.0, 0.0
    distance = (found.boxes[:, None] - wanted.boxes[None]).abs().amax(dim=2)
    apart = (found.scores[:, None] - wanted.scores[None]).abs()
    same = found.labels[:, None] == wanted.labels[None]
    fits = same & (distance <= BOX_BOUND) & (apart <= SCORE_BOUND)
    cost = torch.where(fits, distance + apart, torch.inf).min(dim=0)
    matched = cost.values.isfinite()
    lost = max(lost, int((~matched).sum()))
    if not matched.any():
        return total, lost, 0.0, 0.0
    rows, columns = cost.indices[matched], torch.nonzero(matched).flatten()
    return (
        total,
        lost,
        float(distance[rows, columns].max()),
        float(apart[rows, columns].max()),
    )


def as_table(agreements: list[Agreement]) -> list[dict[str, Any]]:
    """The rows for ``meta.json``."""
    return [asdict(each) for each in agreements]
