"""What does a training step of the localizer's first stage need, in memory and in time?

    python benchmarks/localizer.py [--device cuda] [--threads 2] [--repeats 3] [--json out.json]

Beside it the same network whose head computes all its outputs, of every class at every position,
and then takes those that have a loss. Both run in processes of their own, whose peak memory is
read; the losses are compared first. The bytes of one image are the difference between the peaks of
large and small batches of maps, without the trunk, divided by the difference in images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from resdet.detection.config.files import override
from resdet.detection.config.localizer import LocalizerConfig
from resdet.detection.engine.optim import make_sgd
from resdet.detection.environment import describe_environment
from resdet.detection.models.class_head import ClassHead
from resdet.detection.models.localizer import Localizer
from resdet.detection.structures import Annotation, Batch
from resdet.detection.tasks.localizer_network import build_localizer
from torch import Tensor, nn

SIDES = ("ours", "dense")
#: Images of the two batches of maps.
FEW, MANY = 1, 129


class GivenMaps(nn.Module):
    """A trunk that costs nothing: a map of the right shape for each image."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.map = torch.randn(1, channels, side, side)

    def forward(self, images: Tensor) -> Tensor:
        return self.map.to(images.device).expand(len(images), -1, -1, -1)


class DenseHead(nn.Module):
    """Everything, then a few: the outputs of all classes at all P positions of the N maps.

    It is given the maps before the losses ask it, and finds rows again by their place.
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

    def see(self, features: Tensor, places: Tensor) -> None:
        """``places`` (S,) are the samples' positions among all N * P."""
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
    """The same losses from a `DenseHead`: positives of all images come first here."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.trunk(self.pixels.normalise(batch.images))
        anchors, per_cell = self.anchors(features), len(self.anchors.cells)
        cells = features.shape[2] * features.shape[3]
        found = [
            self.targets(
                anchors, one, size, generator=torch.Generator(features.device).manual_seed(seed)
            )
            for one, size, seed in zip(batch.annotations, batch.sizes, batch.seeds, strict=True)
        ]
        parts = [
            [getattr(target, kind) + image * len(anchors) for image, target in enumerate(found)]
            for kind in ("positives", "negatives")
        ]
        positives, negatives = map(torch.cat, parts)
        chosen = torch.cat([positives, negatives])
        places = chosen // per_cell
        head = DenseHead(self.head)
        head.see(features, places)
        labels, which = batch.labels[places // cells], chosen % per_cell
        logits = head.logits_at(features, which, labels)
        wanted = (torch.arange(len(chosen), device=logits.device) < len(positives)).float()
        cls = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        first = slice(len(positives))
        answers = head.deltas_at(wanted[first], which[first], labels[first])
        goals = torch.cat([target.deltas for target in found])
        box = F.smooth_l1_loss(answers, goals, beta=self.loss.smooth_l1_beta, reduction="sum")
        count = self.per_image * len(batch)
        return {"loss_cls": cls / count, "loss_box": box / count * self.loss.box_loss_weight}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure(args.child, args)))
        return
    report: dict[str, Any] = {"machine": describe_environment(), "sides": {}}
    for side in SIDES:
        whole = in_own_process("--child", side)
        few, many = (
            in_own_process("--child", side, "--maps-only", "--batch", str(count))["peak_mb"]
            for count in (FEW, MANY)
        )
        report["sides"][side] = whole | {"kb_per_image": (many - few) * 1024 / (MANY - FEW)}
    ours, dense = (report["sides"][side] for side in SIDES)
    for name, loss in ours["losses"].items():
        if abs(loss - dense["losses"][name]) > 1e-4 * abs(loss) + 1e-6:
            raise SystemExit(f"the two disagree: {ours['losses']} and {dense['losses']}")
    for side, found in report["sides"].items():
        print(
            f"{side:<6} step {found['seconds']:.3f} s, peak {found['peak_mb']:.0f} MB (model and "
            f"momentum {found['weights_mb']:.0f} MB), head {found['kb_per_image']:.0f} KB an image"
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depth", type=int, default=101, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--level", default="conv5", choices=("conv4", "conv5"))
    parser.add_argument("--outputs", default="per_anchor", choices=("per_anchor", "shared"))
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--maps-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step (median, after the first), losses of the first, and the peak, MB."""
    words = (f"network.depth={args.depth}", "network.norm=frozen", f"head.level={args.level}")
    config = override(LocalizerConfig(), [*words, f"head.outputs={args.outputs}"])
    model = build_localizer(config, args.classes)
    if args.maps_only:
        model.trunk = GivenMaps(model.trunk.channels, args.size // model.anchors.stride)
    if side == "dense":
        model.__class__ = DenseLocalizer
    model.to(args.device).train()
    sgd = make_sgd(model, lr=1e-6, momentum=0.9, weight_decay=0.0, decay_bias=True)
    batch = draw_batch(args).to(args.device)
    losses, seconds = {}, []
    for turn in range(1 + args.repeats):
        start = time.perf_counter()
        sgd.zero_grad()
        found = model(batch)
        sum(found.values()).backward()
        sgd.step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        losses = losses or {name: loss.item() for name, loss in found.items()}
        seconds += [time.perf_counter() - start] if turn else []
    bytes_of = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "losses": losses,
        "seconds": statistics.median(seconds),
        "peak_mb": peak_mb(args.device),
        "weights_mb": 2 * bytes_of / 2**20,
    }


def draw_batch(args: argparse.Namespace) -> Batch:
    """Noise, and one object in each image."""
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


def peak_mb(device: str) -> float:
    """Of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(*words: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  itself
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
