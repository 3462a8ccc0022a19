"""Inference time and memory of each of the paper's test-time improvements.

    python benchmarks/improvements.py [--device cuda] [--threads 2] [--repeats 3] [--json out.json]

The network has random weights and runs on one generated image. All options run in turns, and ratios
to plain inference are computed within each turn. Peak memory is measured in separate processes.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import torch
from measuring import in_own_process, in_turns, make_parser, peak_mb, ratios, spread, write_json
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import override
from resdet.detection.structures import Batch
from resdet.detection.tasks.base import Loaded
from resdet.detection.tasks.detector_network import build_pipeline
from sides import make_model

PLAIN = "plain"
OPTIONS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "refinement, one round": ("test.refine.rounds=1",),
    "box voting": ("test.vote.iou=0.5",),
    "refinement and voting": ("test.refine.rounds=1", "test.vote.iou=0.5"),
    "global context": ("roi.context=true",),
    "pyramid of five scales": ("test.pyramid={5 sides}",),
    "three scales": ("test.scales={3 sides}",),
    "flipped image too": ("test.flip=true",),
    "Soft-NMS": ("test.suppress.method=soft_nms",),
}
#: Shorter sides relative to the training size: for 600, the paper's 200 to 1000, and 400 to 800.
SIDES = {"{5 sides}": (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3), "{3 sides}": (2 / 3, 1, 4 / 3)}


def main() -> None:
    parser = make_parser(
        __doc__,
        device="cpu",
        threads=torch.get_num_threads(),
        repeats=3,
        warmup=1,
        depth=101,
        size=(480, 800),
        classes=20,
    )
    parser.add_argument("--side", type=int, default=600, help="shorter side in training")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, help="measure only these and plain")
    parser.add_argument("--child", choices=OPTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        Inference(args.child, args).run()
        print(peak_mb(args.device))
        return
    names = [name for name in OPTIONS if name == PLAIN or name in (args.only or OPTIONS)]
    peaks = {name: in_own_process("--child", name) for name in names}
    inferences = {name: Inference(name, args) for name in names}
    proposals = inferences[PLAIN].proposals
    print(f"{proposals} proposals")
    calls = {name: inference.run for name, inference in inferences.items()}
    seconds = in_turns(calls, repeats=args.repeats, warmup=args.warmup)
    for name in names:
        ratio = spread(ratios(seconds[name], seconds[PLAIN]))
        print(
            f"{name:<24} {spread(seconds[name])['median']:8.3f} s, "
            f"x{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"peak {peaks[name]:.0f} MB"
        )
    write_json({"proposals": proposals, "peak_mb": peaks, "seconds": seconds}, args)


class Inference:
    """One option, ready to run on the generated image."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        sizes = (f"backbone.depth={args.depth}", f"image.short_side_test={args.side}")
        config = override(DetectorConfig(), [*sizes, *switches(name, args.side)])
        model = make_model(config, args.classes).to(args.device).eval()
        detector = Loaded(model, config, tuple(f"class {i}" for i in range(args.classes)))
        self.pipeline = build_pipeline([detector])
        image = draw_image(*args.size)
        self.batch = Batch.collate([self.pipeline.sample(image)]).to(args.device)
        with torch.no_grad():
            features = model.extract(self.batch.images, self.batch.sizes)
            self.proposals = len(model.propose(features, self.batch.sizes)[0])

    def run(self) -> None:
        (found,) = self.pipeline.predict(self.batch)
        found.to("cpu")  # waits for the GPU


def switches(name: str, side: int) -> list[str]:
    words = list(OPTIONS[name])
    for place, parts in SIDES.items():
        sides = str([round(part * side) for part in parts])
        words = [word.replace(place, sides) for word in words]
    return words


def draw_image(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    main()
