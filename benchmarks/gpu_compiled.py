"""Compiled networks of the GPU report: outputs beside those of uncompiled ones, and speed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from statistics import median

import torch
from gpu_cases import full_precision, relative
from gpu_checks import detector, random_boxes
from gpu_rows import Part, Row, Setup
from measuring import in_turns
from resdet.detection.models import compiled
from resdet.detection.models.compiled import GRAPHS, MODES, compile_parts
from resdet.detection.models.faster_rcnn import FasterRCNN
from sides import make_side
from torch import Tensor


@contextmanager
def _modes(setup: Setup) -> Iterator[tuple[str, ...]]:
    """The modes that the device has; a CPU takes the compiler's tracing alone, which is quick."""
    usual = compiled.BACKEND
    compiled.BACKEND = "eager" if setup.small else usual
    try:
        yield tuple(mode for mode in MODES if mode != GRAPHS or setup.device == "cuda")
    finally:
        compiled.BACKEND = usual


def compiled_outputs(setup: Setup) -> Iterator[Row]:
    """Features and probabilities of two images in a row, of one of another size, and of all again,
    kept until the end, in float32."""
    model, batch = detector(setup, depth=50, images=2)
    one, other = batch.images.split(1)
    less = setup.pick(88, 16)
    smaller = one[..., less:].contiguous(memory_format=torch.channels_last)
    images = [one, other, smaller]
    with _modes(setup) as modes, full_precision(), torch.no_grad():
        expected = _outputs(setup, model, images)
        for mode in modes:
            network = deepcopy(model)
            compile_parts(network, mode)
            found = [_outputs(setup, network, images), _outputs(setup, network, images)]
            values = {"features": 0.0, "probabilities": 0.0}
            for outputs in found:
                for (features, probs), (theirs, others) in zip(outputs, expected, strict=True):
                    values["features"] = max(values["features"], relative(features, theirs))
                    largest = float((probs - others).abs().max())
                    values["probabilities"] = max(values["probabilities"], largest)
            yield Row(f"compiled, {mode}", values, dict.fromkeys(values, 1e-3))


def _outputs(
    setup: Setup, model: FasterRCNN, images: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    found = []
    for number, image in enumerate(images):
        size = (image.shape[2], image.shape[3])
        # Not as many as a graph takes.
        boxes = [random_boxes(setup.pick(280, 20), size, setup.device, seed=number)]
        features = model.extract(image, [size])
        found.append((features, model.score(features, boxes, [size])[0][0]))
    return found


def compiled_inference(setup: Setup) -> Iterator[Row]:
    """Inference of one size in bf16, an image at a time, uncompiled and compiled, in turns."""
    size, depth = ((64, 96), 18) if setup.small else ((600, 1000), 50)
    args = argparse.Namespace(
        size=size,
        batch=1,
        depth=depth,
        classes=20,
        proposals=setup.pick(300, 20),
        rois=16,
        device=setup.device,
        precision="bf16",
    )
    with _modes(setup) as modes:
        sides = {mode: make_side("ours", args) for mode in ("uncompiled", *modes)}
        for mode in modes:
            compile_parts(sides[mode].pipeline, mode)
        seconds = in_turns(
            {mode: side.detect for mode, side in sides.items()},
            repeats=setup.pick(10, 1),
            warmup=setup.pick(3, 1),
            device=setup.device,
        )
    values = {f"{mode} images/s": 1 / median(turns) for mode, turns in seconds.items()}
    yield Row(f"compiled R{depth} {size[0]}x{size[1]} b1", values)


COMPILED_CHECKS: dict[str, Part] = {"compiled_outputs": compiled_outputs}
COMPILED_SPEED: dict[str, Part] = {"compiled_inference": compiled_inference}
