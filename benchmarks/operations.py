"""Operations and host synchronisations of a training step and of inference of every network.

    OMP_NUM_THREADS=1 python benchmarks/operations.py [--batch 4]

On a GPU every operation is a launch, and a synchronisation waits until all that was launched before
is done. Both are counted on a CPU, where they are the same: an operation is one that PyTorch
dispatches, a synchronisation one that a GPU's result on the host would need (``.item()``,
``.tolist()``, ``nonzero``, an index by a boolean mask). Networks are narrow, which changes neither.
The checksum of a step's losses and gradients tells whether two versions compute the same bits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from measuring import make_parser, write_json
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import override
from resdet.detection.config.localizer import LocalizerConfig, RegionLocalizerConfig
from resdet.detection.structures import Annotation, Batch, Geometry
from resdet.detection.tasks.base import Loaded
from resdet.detection.tasks.classifier_network import build_classifier
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.localizer_network import build_localizer, build_region_localizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CLASSES, SIZE = 5, 128
#: Operations whose result has a shape or a value that the host must know.
_SYNCHRONISE = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.repeat_interleave.Tensor",
    "aten._unique",
)


class Count(TorchDispatchMode):
    """Counts what is dispatched within it; ``synchronisations`` by the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.synchronisations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.operations += 1
        name = str(func)
        if name.startswith(_SYNCHRONISE):
            self.synchronisations[name.split(".")[1]] += 1
        elif name.startswith("aten.index") and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [each for each in args[1] if isinstance(each, Tensor)]
            # A value for all of a mask is filled in without its indices.
            filled = "index_put" in name and args[2].numel() == 1
            if any(each.dtype == torch.bool for each in masks) and not filled:
                self.synchronisations["mask"] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> dict[str, Any]:
    read = Tensor.tolist
    with Count() as count:

        def tolist(tensor: Tensor) -> object:
            count.synchronisations["tolist"] += 1
            return read(tensor)

        with mock.patch.object(Tensor, "tolist", tolist):
            call()
    total = sum(count.synchronisations.values())
    return {"operations": count.operations, "synchronisations": total, **count.synchronisations}


def draw_batch(images: int, objects: int) -> Batch:
    """Noise with objects at random."""
    random = torch.Generator().manual_seed(0)
    annotations = []
    for _ in range(images):
        corners = torch.rand(objects, 2, generator=random) * SIZE / 2
        sides = SIZE / 8 + torch.rand(objects, 2, generator=random) * SIZE / 3
        labels = torch.randint(CLASSES, (objects,), generator=random)
        boxes = torch.cat([corners, corners + sides], dim=1)
        annotations.append(Annotation(boxes, labels, torch.zeros(objects, dtype=torch.bool)))
    return Batch(
        torch.randint(256, (images, 3, SIZE, SIZE), generator=random, dtype=torch.uint8),
        [(SIZE, SIZE)] * images,
        annotations,
        [Geometry((SIZE, SIZE))] * images,
        [str(number) for number in range(images)],
        list(range(images)),
        torch.randint(CLASSES, (images,), generator=random),
    )


def step(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The counts of a forward and backward pass, and the checksum of what it gave."""
    results: dict[str, Tensor] = {}

    def run() -> None:
        losses = model(batch)
        results.update(losses)
        torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()

    model.train()
    counts = counted(run)
    digest = hashlib.sha256()
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    for tensor in (*results.values(), *grads):
        digest.update(tensor.detach().contiguous().numpy())
    return counts | {"checksum": digest.hexdigest()[:12]}


@torch.no_grad()
def inference(model: nn.Module, call: Callable[[], object]) -> dict[str, Any]:
    model.eval()
    return counted(call)


def rows(images: int) -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    few, one = draw_batch(images, objects=4), draw_batch(1, objects=4)
    found: dict[str, dict[str, Any]] = {}

    detector_config = override(DetectorConfig(), ["backbone.depth=18", "backbone.width=8"])
    detector = DETECTION.build(detector_config, CLASSES)
    found["detector, training"] = step(detector, few)
    names = tuple(map(str, range(CLASSES)))
    pipeline = DETECTION.pipeline([Loaded(detector, detector_config, names)])
    found["detector, inference"] = inference(pipeline, lambda: pipeline.predict(few))

    narrow = ["network.depth=18", "network.width=8"]
    classifier = build_classifier(override(ClassifierConfig(), narrow), CLASSES)
    found["classifier, training"] = step(classifier, few)
    found["classifier, inference"] = inference(classifier, lambda: classifier.logits(few.images))

    localizer = build_localizer(override(LocalizerConfig(), narrow), CLASSES)
    found["localizer, training"] = step(localizer, draw_batch(images, objects=1))
    found["localizer, inference"] = inference(
        localizer, lambda: localizer.score(one.images, one.labels)
    )
    regions = build_region_localizer(override(RegionLocalizerConfig(), narrow), CLASSES)
    found["region localizer, training"] = step(regions, draw_batch(images, objects=1))
    return found


def main() -> None:
    parser = make_parser(__doc__, batch=4)
    args = parser.parse_args()
    report = rows(args.batch)
    print(f"{'':<28}{'operations':>11}{'synchronisations':>18}  (batch of {args.batch})")
    for name, row in report.items():
        known = ("operations", "synchronisations", "checksum")
        kinds = ", ".join(f"{value} {kind}" for kind, value in row.items() if kind not in known)
        print(
            f"{name:<28}{row['operations']:>11}{row['synchronisations']:>18}  "
            f"{row.get('checksum', ''):<13} {kinds}"
        )
    write_json({"rows": report}, args)


if __name__ == "__main__":
    main()
