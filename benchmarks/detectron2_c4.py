"""Speed of the detector beside detectron2's R-CNN with C4, with detectron2's weights.

    PYTHON benchmarks/detectron2_c4.py [--threads 2] [--precision bf16] [--winograd 256]

PYTHON is that of an environment with resdet and detectron2, which has to be built from its source.
detectron2's network has random weights, which our importer converts; the outputs are compared
first. Its settings are those of its model zoo, where the stride is in the 1x1 convolution, but for
the proposals and regions, of which both sides have as many, and it runs in float32. Both sides keep
freed memory and run in turns in one process; ``detectron2, memory returned`` is in a process of its
own as it comes (`apart.py`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from apart import Apart
from detector import CLOCKS, TOLERANCE, compare, compare_times, show
from measuring import describe_machine, make_parser, write_json
from resdet.backbones.weights.load import check_binding, import_weights, load_into
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.processor import keep_memory
from resdet.detection.structures import Detections
from resdet.detection.tasks.detector import Detector
from resdet.detection.tasks.detector_network import build_detector
from sides import Ours, make_batch
from torch import Tensor

ZOO = "COCO-Detection/faster_rcnn_R_{depth}_C4_3x.yaml"


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    keep_memory()
    print(json.dumps(describe_machine() | vars(args), default=str, indent=1))
    peer = Detectron2(args)
    ours = make_ours(peer.model, args)
    report: dict[str, Any] = {"agreement": compare((ours, peer), precision=args.precision)}
    show("largest difference / largest value", report["agreement"])
    with Apart(args, "detectron2", Detectron2) as apart:
        sides = (ours, peer, apart)
        report["inference_s"] = compare_times({side.name: side.detect for side in sides}, args)
        show("inference, s", report["inference_s"])
        report["train_s"] = compare_times({side.name: side.step for side in sides}, args)
        show("training step, s", report["train_s"])
    write_json(report, args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        device="cpu",
        threads=torch.get_num_threads(),
        repeats=3,
        warmup=1,
        size=(600, 1000),
        batch=1,
        depth=101,
        classes=20,
        proposals=300,
        rois=128,
        winograd=0,
    )
    parser.add_argument("--precision", default="fp32", choices=tuple(TOLERANCE), help="ours")
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
    return parser.parse_args()


class Detectron2:
    """detectron2's detector with the methods of `sides`."""

    name = "detectron2"

    def __init__(self, args: argparse.Namespace) -> None:
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage

        self.model = make_model(args)
        self.batch = make_batch(args)
        self.events = EventStorage()
        self.inputs = []
        for image, truth, size in zip(
            self.batch.images.flip(1).contiguous(),
            self.batch.annotations,
            self.batch.sizes,
            strict=True,
        ):
            objects = Instances(size, gt_boxes=Boxes(truth.boxes), gt_classes=truth.labels)
            self.inputs.append(
                {"image": image, "height": size[0], "width": size[1], "instances": objects}
            )
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)

    autocast = nullcontext

    def trunk(self) -> Tensor:
        self.images = self.model.preprocess_image(self.inputs)
        return self.model.backbone(self.images.tensor)["res4"]

    def proposals(self, features: Tensor) -> list[Tensor]:
        found, _ = self.model.proposal_generator(self.images, {"res4": features.float()})
        return [image.proposal_boxes.tensor for image in found]

    def head(self, features: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        from detectron2.structures import Boxes

        heads = self.model.roi_heads
        boxes = [Boxes(regions) for regions in proposals]
        crops = heads._shared_roi_transform([features.float()], boxes)
        logits, deltas = heads.box_predictor(crops.mean(dim=[2, 3]))
        return logits, deltas.unflatten(1, (-1, 4))

    def finish(self, scored: tuple[Tensor, Tensor], proposals: list[Tensor]) -> list[Detections]:
        from detectron2.structures import Boxes, Instances

        regions = [
            Instances(size, proposal_boxes=Boxes(boxes))
            for size, boxes in zip(self.batch.sizes, proposals, strict=True)
        ]
        logits, deltas = scored
        predictor = self.model.roi_heads.box_predictor
        found, _ = predictor.inference((logits, deltas.flatten(1)), regions)
        return [Detections(f.pred_boxes.tensor, f.scores, f.pred_classes) for f in found]

    @torch.no_grad()
    def detect(self) -> list[Detections]:
        self.model.eval()
        found = [image["instances"] for image in self.model(self.inputs)]
        return [Detections(f.pred_boxes.tensor, f.scores, f.pred_classes) for f in found]

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.events:
            losses = self.model(self.inputs)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()


@torch.no_grad()
def make_model(args: argparse.Namespace) -> Any:
    """A network of the model zoo with random weights.

    The image is scaled down by conv1's norm, as its pixels are not normalised, and the last norm of
    a block is small, which keeps activations near 1 over all residual sums.
    """
    from detectron2 import model_zoo
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.modeling import build_model

    torch.manual_seed(1)
    settings = model_zoo.get_config(ZOO.format(depth=args.depth))
    settings.MODEL.DEVICE = args.device
    settings.MODEL.WEIGHTS = ""
    settings.MODEL.ROI_HEADS.NUM_CLASSES = args.classes
    settings.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = args.rois
    settings.MODEL.RPN.POST_NMS_TOPK_TEST = args.proposals
    model = build_model(settings)
    for name, norm in model.named_modules():
        if isinstance(norm, FrozenBatchNorm2d):
            for tensor, low, high in (
                (norm.weight, 0.8, 1.2),
                (norm.bias, -0.2, 0.2),
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.7, 1.3),
            ):
                tensor.uniform_(low, high)
            if name.endswith("conv3.norm"):
                norm.weight.mul_(0.3)
            elif ".stem." in name:
                norm.weight.div_(64)
    return model


def make_ours(theirs: Any, args: argparse.Namespace) -> Ours:
    """Our detector with the weights and settings of ``theirs``."""
    config = DetectorConfig.model_validate(
        {
            "backbone": {"depth": args.depth, "stride_in": "1x1", "pixels": "msra"},
            "rpn": {"post_nms_test": args.proposals},
            "roi": {"batch_per_image": args.rois},
            "test": {"score_threshold": 0.05},
        }
    )
    model = build_detector(config, args.classes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detectron2.pth"
        torch.save({"model": theirs.state_dict()}, file)
        converted = import_weights(file)
    check_binding(converted, pixels="msra", stride_in="1x1")
    load_into(model, converted.tensors)
    names = tuple(f"class {number}" for number in range(args.classes))
    detector = Detector(model.to(args.device), config, names)
    return Ours(detector, make_batch(args), args.precision, args.winograd)


if __name__ == "__main__":
    main()
