"""What does each of the paper's improvements cost at test time, in time and in memory?

    python benchmarks/improvements.py [--device cuda] [--threads 2] [--repeats 3] [--json out.json]

One network with random weights, one drawn image; every option runs in turn with the plain test in
each round, and the ratio is taken within the round. Peak memory is that of a process of its own.
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

import cv2
import numpy as np
import torch
from resdet.datasets.loading.transforms import make_sample
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import override
from resdet.detection.environment import describe_environment
from resdet.detection.structures import Annotation, Batch
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
    "mirrored too": ("test.flip=true",),
    "Soft-NMS": ("test.suppress.method=soft_nms",),
}
#: Shorter sides, as parts of the training size: 200 to 1000 for 600, as in the paper; 400 to 800.
SIDES = {"{5 sides}": (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3), "{3 sides}": (2 / 3, 1, 4 / 3)}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(peak_memory(args)))
        return
    names = [name for name in OPTIONS if name == PLAIN or name in (args.only or OPTIONS)]
    report: dict[str, Any] = {
        "machine": describe_environment(),
        "peak_mb": {n: in_own_process(n) for n in names},
    }
    seconds: dict[str, list[float]] = {name: [] for name in names}
    tests = {name: Test(name, args) for name in names}
    report["proposals"] = tests[PLAIN].proposals
    print(f"{report['proposals']} proposals")
    for turn in range(args.warmup + args.repeats):
        for name, test in tests.items():
            spent = test.run()
            if turn >= args.warmup:
                seconds[name].append(spent)
    report["seconds"] = seconds
    for name in names:
        ratios = [own / plain for own, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
        print(
            f"{name:<24} {statistics.median(seconds[name]):8.3f} s, "
            f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"peak {report['peak_mb'][name]:.0f} MB"
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--depth", type=int, default=101, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--size", type=int, nargs=2, default=(480, 800), metavar=("H", "W"))
    parser.add_argument("--side", type=int, default=600, help="shorter side that is trained on")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, help="these beside the plain test")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--child", choices=OPTIONS, help=argparse.SUPPRESS)
    return parser.parse_args()


class Test:
    """One way to test, ready to run on the drawn image."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        sizes = (f"backbone.depth={args.depth}", f"image.short_side_test={args.side}")
        config = override(DetectorConfig(), [*sizes, *switches(name, args.side)])
        model = make_model(config, args.classes).to(args.device).eval()
        detector = Loaded(model, config, tuple(f"class {i}" for i in range(args.classes)))
        self.pipeline = build_pipeline([detector])
        image = draw_image(*args.size)
        sample = make_sample(image, Annotation.empty(), self.pipeline.transforms, image_id="")
        self.batch = Batch.collate([sample]).to(args.device)
        with torch.no_grad():
            features = model.extract(self.batch.images, self.batch.sizes)
            self.proposals = len(model.propose(features, self.batch.sizes)[0])

    def run(self) -> float:
        """Seconds for the image."""
        start = time.perf_counter()
        (found,) = self.pipeline.predict(self.batch)
        found.to("cpu")
        return time.perf_counter() - start


def switches(name: str, side: int) -> list[str]:
    words = list(OPTIONS[name])
    for place, parts in SIDES.items():
        sides = str([round(part * side) for part in parts])
        words = [word.replace(place, sides) for word in words]
    return words


def draw_image(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def peak_memory(args: argparse.Namespace) -> float:
    """MB: of the GPU, or of this process."""
    Test(args.child, args).run()
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(name: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  itself
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
