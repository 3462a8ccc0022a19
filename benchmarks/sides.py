"""The two detectors of the benchmark, with one method per measured stage.

Both have the same random weights, settings and input. The methods of both take and return resdet's
conventions: labels 0..K-1, background last. K classes, P proposals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from resdet.backbones.norm import ConvNorm, fold_norms
from resdet.backbones.winograd import use_winograd
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.engine.optim import make_sgd
from resdet.detection.evaluation.prediction import autocast
from resdet.detection.inference.pipeline import Pipeline, restore
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.structures import Annotation, Batch, Detections, Geometry
from resdet.detection.tasks.detector import Detector
from resdet.detection.tasks.detector_network import build_detector, build_pipeline
from torch import Tensor, nn
from torchvision_c4 import assemble_peer

SIDES = ("ours", "torchvision")


class Ours:
    """resdet's detector: ``model`` in training, ``deployed``, as it is loaded, in inference."""

    name = "ours"

    def __init__(self, detector: Detector, batch: Batch, precision: str, winograd: int = 0) -> None:
        self.detector, self.model = detector, detector.model
        self.winograd = winograd
        if winograd:
            use_winograd(self.model, winograd, training=True)
        self.batch = batch
        self.autocast = lambda: autocast(batch.images.device, precision)
        self.optimizer = make_sgd(self.model, TrainConfig(lr=1e-6))

    @cached_property
    def deployed(self) -> FasterRCNN:
        deployed = fold_norms(deepcopy(self.model).eval())
        return use_winograd(deployed, self.winograd) if self.winograd else deployed

    @cached_property
    def pipeline(self) -> Pipeline:
        return build_pipeline([replace(self.detector, model=self.deployed)])

    def trunk(self) -> Tensor:
        return self.deployed.extract(self.batch.images, self.batch.sizes)

    def proposals(self, features: Tensor) -> list[Tensor]:
        return self.deployed.propose(features, self.batch.sizes)

    def head(self, features: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (P, K + 1), background last, and deltas (P, K, 4)."""
        return self.deployed.roi_head(features, proposals, self.batch.sizes)

    def finish(self, scored: tuple[Tensor, Tensor], proposals: list[Tensor]) -> list[Detections]:
        pipeline, batch = self.pipeline, self.batch
        decoded = self.deployed.decode(*scored, proposals, batch.sizes)
        return [
            pipeline.suppress(restore(*image, score_threshold=pipeline.score_threshold))
            for image in zip(*decoded, batch.geometries, strict=True)
        ]

    def detect(self) -> list[Detections]:
        with self.autocast():
            return self.pipeline.predict(self.batch)

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses = self.model(self.batch)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()


class Torchvision:
    """torchvision's detector with the same methods."""

    name = "torchvision"

    def __init__(self, model: Any, batch: Batch, precision: str) -> None:
        self.model = model
        self.images = list(batch.images.float().contiguous() / 255)
        self.targets = [{"boxes": a.boxes, "labels": a.labels + 1} for a in batch.annotations]
        self.sizes = batch.sizes
        self.precision = precision
        self.autocast = lambda: autocast(batch.images.device, precision)
        self.optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=1e-6,
            momentum=0.9,
            weight_decay=1e-4,
        )

    def trunk(self) -> Tensor:
        self.inputs = self.model.transform(self.images)[0]
        return self.model.backbone(self.inputs.tensors)

    def proposals(self, features: Tensor) -> list[Tensor]:
        return self.model.rpn(self.inputs, {"0": self._cast(features)})[0]

    def _cast(self, features: Tensor) -> Tensor:
        """The other side's features, which may be in bf16, for this network's precision."""
        return features.float() if self.precision == "fp32" else features

    def head(self, features: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        roi = self.model.roi_heads
        crops = roi.box_roi_pool({"0": self._cast(features)}, proposals, self.sizes)
        logits, deltas = roi.box_predictor(roi.box_head(crops))
        return logits.float().roll(-1, 1), deltas.float().unflatten(1, (-1, 4))[:, 1:]

    def finish(self, scored: tuple[Tensor, Tensor], proposals: list[Tensor]) -> list[Detections]:
        logits, deltas = scored
        deltas = torch.cat([torch.zeros_like(deltas[:, :1]), deltas], dim=1).flatten(1)
        results = self.model.roi_heads.postprocess_detections(
            logits.roll(1, 1), deltas, proposals, self.sizes
        )
        return [Detections(b, s, label - 1) for b, s, label in zip(*results, strict=True)]

    @torch.no_grad()
    def detect(self) -> list[Detections]:
        self.model.eval()
        with self.autocast():
            found = self.model(self.images)
        return [Detections(f["boxes"].float(), f["scores"].float(), f["labels"] - 1) for f in found]

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses = self.model(self.images, self.targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        self.optimizer.step()


Side = Ours | Torchvision


def sgd_step(
    model: nn.Module, loss: Callable[..., Tensor], device: torch.device, precision: str
) -> Callable[..., None]:
    """A training step of ``model``: ``loss`` of what it is called with, gradients, SGD."""
    optimizer = make_sgd(model, TrainConfig(lr=1e-6))

    def step(*batch: object) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            value = loss(*batch)
        value.backward()
        optimizer.step()

    return step


def make_side(name: str, args: argparse.Namespace) -> Side:
    """One of `SIDES`; every call generates the same weights and images."""
    batch, config = make_batch(args), make_config(args)
    model = make_model(config, args.classes)
    if name == "ours":
        names = tuple(f"class {number}" for number in range(args.classes))
        detector = Detector(model.to(args.device), config, names)
        return Ours(detector, batch, args.precision, getattr(args, "winograd", 0))
    peer = assemble_peer(model, config, batch.sizes[0]).to(args.device)
    if args.peer_layout == "channels_last":
        peer = peer.to(memory_format=torch.channels_last)
    return Torchvision(peer, batch, args.peer_precision or args.precision)


def make_config(args: argparse.Namespace) -> DetectorConfig:
    """Our config with the settings that are fixed in torchvision's losses."""
    return DetectorConfig.model_validate(
        {
            "backbone": {"depth": args.depth},
            "rpn": {
                # torchvision's head has as many channels as the trunk: 256 x 4 with bottlenecks.
                "channels": 1024 if args.depth >= 50 else 256,
                "post_nms_test": args.proposals,
                "smooth_l1_beta": 1 / 9,
                "normalizer": "sampled",
                "min_size": 1e-3,
            },
            "roi": {"batch_per_image": args.rois, "smooth_l1_beta": 1 / 9},
            "test": {"score_threshold": 0.05},
        }
    )


@torch.no_grad()
def make_model(config: DetectorConfig, classes: int) -> FasterRCNN:
    """A model with random weights and norms.

    The last norm of a block is small, which keeps activations near 1 over 33 residual sums.
    """
    model = build_detector(config, classes)
    generator = torch.Generator().manual_seed(1)
    for name, module in model.named_modules():
        if not isinstance(module, ConvNorm):
            continue
        norm: Any = module.norm
        last = "conv3" if config.backbone.depth >= 50 else "conv2"
        for tensor, low, high in (
            (norm.weight, 0.8, 1.2),
            (norm.bias, -0.2, 0.2),
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.7, 1.3),
        ):
            tensor.uniform_(low, high, generator=generator)
        if name.endswith(last):
            norm.weight.mul_(0.3)
    return model


def make_batch(args: argparse.Namespace) -> Batch:
    """Smooth random images with five objects each."""
    generator = torch.Generator().manual_seed(2)
    height, width = args.size
    coarse = torch.rand(args.batch, 3, 12, 20, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images = (smooth * 255).byte().contiguous(memory_format=torch.channels_last)
    annotations = []
    for _ in range(args.batch):
        extent = torch.tensor([width, height])
        corner = torch.rand(5, 2, generator=generator) * extent * 0.6
        side = (torch.rand(5, 2, generator=generator) * 0.3 + 0.1) * extent
        labels = torch.randint(args.classes, (5,), generator=generator)
        boxes = torch.cat([corner, corner + side], dim=1)
        annotations.append(Annotation(boxes, labels, torch.zeros(5, dtype=torch.bool)))
    size = (height, width)
    number = range(args.batch)
    return Batch(
        images,
        [size for _ in number],
        annotations,
        [Geometry(size) for _ in number],
        [f"{i}" for i in number],
        list(number),
    ).to(args.device)
