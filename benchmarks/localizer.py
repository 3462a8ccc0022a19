"""Memory and time of a training step of the localizer's first stage.

    python benchmarks/localizer.py [--device cuda] [--threads 2] [--repeats 3] [--json out.json]

It is compared with the same network whose head computes the outputs of all classes at all positions
and then selects those with a loss. Both run in separate processes, and their losses are compared.
The memory per image is the difference of the peaks with many and with few feature maps, without the
trunk, divided by the difference in the number of images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from measuring import in_own_process, make_parser, peak_mb, timed, write_json
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.files import override
from resdet.detection.config.localizer import LocalizerConfig
from resdet.detection.engine.optim import make_sgd
from resdet.detection.models.class_head import ClassHead
from resdet.detection.models.localizer import Localizer
from resdet.detection.structures import Annotation, Batch
from resdet.detection.tasks.localizer_network import build_localizer
from torch import Tensor, nn

SIDES = ("ours", "dense")
#: Sizes of the two batches of feature maps.
FEW, MANY = 1, 129


class GivenMaps(nn.Module):
    """A trunk without cost: the same map, of the right shape, for each image."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.map = torch.randn(1, channels, side, side)

    def forward(self, images: Tensor) -> Tensor:
        return self.map.to(images.device).expand(len(images), -1, -1, -1)


class DenseHead(nn.Module):
    """Computes the outputs of all classes at all P positions of N maps, then selects some.

    `compute` gets the maps; `logits_at` and `deltas_at` then select the sampled positions.
    """

    def __init__(self, head: ClassHead) -> None:
        super().__init__()
        self.cls_logits, self.box_deltas, self.shared = (
            head.cls_logits,
            head.box_deltas,
            head.shared,
        )
        self.logits = self.deltas = torch.zeros(0)
        self.places = torch.zeros(0, dtype=torch.int64)

    def compute(self, features: Tensor, places: Tensor) -> None:
        """``places`` (S,) are the positions of the samples among all N * P."""
        self.places = places
        self.logits, self.deltas = (
            F.conv2d(features, layer.weight.flatten(0, 1)[:, :, None, None], layer.bias.flatten())
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            .unflatten(1, layer.bias.shape)
            for layer in (self.cls_logits, self.box_deltas)
        )

    def logits_at(self, rows: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        return self.logits[self.places, labels, anchors * (not self.shared)]

    def deltas_at(self, rows: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        first = 4 * anchors * (not self.shared)
        where = first[:, None] + torch.arange(4, device=rows.device)
        return self.deltas[self.places[: len(rows)], labels][
            torch.arange(len(rows))[:, None], where
        ]


class DenseLocalizer(Localizer):
    """The same losses from a `DenseHead`; here the positives of all images come first."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.trunk(self.pixels.normalise(batch.images))
        anchors, per_cell = self.anchors(features), len(self.anchors.cells)
        cells = features.shape[2] * features.shape[3]
        found = self.samples(anchors, batch.annotations, batch.seeds)
        every, positives = found.images * len(anchors) + found.anchors, found.positives
        negative = torch.ones_like(every, dtype=torch.bool).index_fill(0, positives, False)
        chosen = torch.cat([every[positives], every[negative]])
        places = chosen // per_cell
        head = DenseHead(self.head)
        head.compute(features, places)
        labels, which = batch.labels[places // cells], chosen % per_cell
        logits = head.logits_at(features, which, labels)
        wanted = (torch.arange(len(chosen), device=logits.device) < len(positives)).float()
        cls = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        first = slice(len(positives))
        answers = head.deltas_at(wanted[first], which[first], labels[first])
        box = F.smooth_l1_loss(
            answers, found.deltas, beta=self.loss.smooth_l1_beta, reduction="sum"
        )
        count = self.per_image * len(batch)
        return {"loss_cls": cls / count, "loss_box": box / count * self.loss.box_loss_weight}


def main() -> None:
    parser = make_parser(
        __doc__,
        device="cpu",
        threads=torch.get_num_threads(),
        repeats=3,
        depth=101,
        classes=1000,
        batch=8,
    )
    parser.add_argument("--size", type=int, default=224, help="side of the crops")
    parser.add_argument("--level", default="conv5", choices=("conv4", "conv5"))
    parser.add_argument("--outputs", default="per_anchor", choices=("per_anchor", "shared"))
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--maps-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure(args.child, args)))
        return
    sides = {}
    for side in SIDES:
        few, many = (
            in_own_process("--child", side, "--maps-only", "--batch", str(count))["peak_mb"]
            for count in (FEW, MANY)
        )
        head = {"kb_per_image": (many - few) * 1024 / (MANY - FEW)}
        sides[side] = in_own_process("--child", side) | head
    ours, dense = (sides[side]["losses"] for side in SIDES)
    for name, loss in ours.items():
        if abs(loss - dense[name]) > 1e-4 * abs(loss) + 1e-6:
            raise SystemExit(f"the losses differ: {ours} and {dense}")
    for side, found in sides.items():
        print(
            f"{side:<6} step {found['seconds']:.3f} s, peak {found['peak_mb']:.0f} MB (model and "
            f"momentum {found['weights_mb']:.0f} MB), head {found['kb_per_image']:.0f} KB per image"
        )
    write_json({"sides": sides}, args)


def measure(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step without the first, losses of the first step, and peak MB."""
    words = (f"network.depth={args.depth}", "network.norm=frozen", f"head.level={args.level}")
    config = override(LocalizerConfig(), [*words, f"head.outputs={args.outputs}"])
    model = build_localizer(config, args.classes)
    if args.maps_only:
        model.trunk = GivenMaps(model.trunk.channels, args.size // model.anchors.stride)
    if side == "dense":
        model.__class__ = DenseLocalizer
    model.to(args.device).train()
    sgd = make_sgd(model, TrainConfig(lr=1e-6, weight_decay=0.0))
    batch = draw_batch(args).to(args.device)
    losses: list[dict[str, Tensor]] = []

    def step() -> None:
        sgd.zero_grad()
        found = model(batch)
        sum(found.values()).backward()
        losses.append({name: loss.detach() for name, loss in found.items()})
        sgd.step()

    seconds = [timed(step, args.device) for _ in range(1 + args.repeats)]
    bytes_of = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "losses": {name: loss.item() for name, loss in losses[0].items()},
        "seconds": statistics.median(seconds[1:]),
        "peak_mb": peak_mb(args.device),
        "weights_mb": 2 * bytes_of / 2**20,
    }


def draw_batch(args: argparse.Namespace) -> Batch:
    """Noise images with one object each."""
    random = torch.Generator().manual_seed(0)
    count, size = args.batch, args.size
    corners = torch.rand(count, 2, generator=random) * size / 3
    far = corners + size / 3 + torch.rand(count, 2, generator=random) * size / 3
    labels = torch.randint(args.classes, (count,), generator=random)
    none = torch.zeros(1, dtype=torch.bool)
    return Batch(
        torch.randint(256, (count, 3, size, size), generator=random, dtype=torch.uint8),
        [(size, size)] * count,
        [
            Annotation(box[None], label[None], none)
            for box, label in zip(torch.cat([corners, far], dim=1), labels, strict=True)
        ],
        [],
        [str(index) for index in range(count)],
        list(range(count)),
        labels,
    )


if __name__ == "__main__":
    main()
