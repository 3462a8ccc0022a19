"""How fast is the detector, and how much memory does training take, beside torchvision's?

    python benchmarks/detector.py [--device cuda --precision bf16] [--threads 2] [--json out.json]

Both sides have the same random weights, settings and input, and run in turns in one process, so
that whatever else the machine does falls on both; a ratio is taken within each turn. Their outputs
are compared first. Peak memory is measured in a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resdet.detection.environment import describe_environment
from resdet.detection.structures import Detections
from sides import SIDES, Side, make_side
from torch import Tensor

MEASUREMENTS = ("inference", "parts", "train", "memory")
#: Largest difference of a tensor as a share of its largest value, and largest share of boxes that
#: only one side has. bf16 has 8 bits, which moves most boxes by more than the 0.05 px allowed.
TOLERANCE = {"fp32": (1e-4, 0.02), "bf16": (5e-2, 1.0)}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure_memory(args)))
        return
    report: dict[str, Any] = {"machine": describe_machine(), "settings": vars(args)}
    print(json.dumps(report, default=str, indent=1))
    if "memory" in args.measure:
        # First, because on Linux a process inherits the peak of the one that starts it.
        report["memory_mb"] = {name: in_own_process(name) for name in SIDES}
        show("training step, peak MB", report["memory_mb"])
    sides = [make_side(name, args) for name in SIDES]
    report["agreement"] = compare(sides, precision=args.precision)
    show("largest difference / largest value", report["agreement"])
    if "inference" in args.measure:
        report["inference_s"] = in_turns({s.name: s.detect for s in sides}, args)
        show("inference, s", report["inference_s"])
    if "parts" in args.measure:
        report["parts_s"] = measure_parts(sides, args)
        for part, result in report["parts_s"].items():
            show(f"{part}, s", result)
    if "train" in args.measure:
        report["train_s"] = in_turns({s.name: s.step for s in sides}, args)
        show("training step, s", report["train_s"])
    if args.json:
        args.json.write_text(json.dumps(report, default=str, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=tuple(TOLERANCE))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", nargs="+", default=MEASUREMENTS, choices=MEASUREMENTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(600, 1000), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--depth", type=int, default=101, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--proposals", type=int, default=300, help="per image, in inference")
    parser.add_argument("--rois", type=int, default=128, help="per image, in training")
    parser.add_argument(
        "--peer-layout",
        default="contiguous",
        choices=("contiguous", "channels_last"),
        help="memory layout of torchvision's network; contiguous is what it has by itself",
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def describe_machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    cpu = ", ".join(sorted(names)) or platform.processor()
    return {"cpu": cpu, **describe_environment()}


# ----------------------------------------------------------------------------- what is compared


@torch.no_grad()
def compare(sides: Sequence[Side], *, precision: str) -> dict[str, float]:
    """Every stage on the same input; ends the program where they differ by more than `TOLERANCE`.

    Proposals and detections are also compared as sets, because a last bit may swap neighbours in
    the order, or move one over a threshold.
    """
    ours, peer = sides
    for side in sides:
        side.model.eval()
    with ours.autocast():
        features, their_features = ours.trunk(), peer.trunk()
        proposals, their_proposals = ours.proposals(features), peer.proposals(features)
        scored, their_scored = ours.head(features, proposals), peer.head(features, proposals)
        found, their_found = ours.finish(scored, proposals), peer.finish(scored, proposals)
    differences = {
        "features": difference(features, their_features),
        "class logits": difference(scored[0], their_scored[0]),
        "box deltas": difference(scored[1], their_scored[1]),
        "proposals only one has": unmatched(proposals, their_proposals),
        "detections only one has": unmatched(
            [labelled(f) for f in found], [labelled(f) for f in their_found]
        ),
    }
    counts = {"proposals": len(proposals[0]), "detections": len(found[0])}
    print(f"features: root mean square {features.float().square().mean().sqrt():.2f}; {counts}")
    tolerance, share = TOLERANCE[precision]
    allowed = {name: share if "only one" in name else tolerance for name in differences}
    wrong = {name: value for name, value in differences.items() if not value <= allowed[name]}
    if wrong:
        raise SystemExit(f"the two detectors disagree: {wrong}")
    return differences


def difference(first: Tensor, second: Tensor) -> float:
    if first.shape != second.shape:
        raise SystemExit(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
    return float((first.float() - second.float()).abs().max() / second.float().abs().max())


def labelled(found: Detections) -> Tensor:
    """(D, 6): box, a label that is far from every other, score in 1/100."""
    return torch.cat([found.boxes, found.labels[:, None] * 1e4, found.scores[:, None] * 100], dim=1)


def unmatched(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The share of rows with no row of the other side within 0.05."""
    lonely, total = 0, 0
    for a, b in zip(first, second, strict=True):
        near = torch.cdist(a.float(), b.float(), p=torch.inf) < 0.05
        lonely += int((~near.any(dim=1)).sum() + (~near.any(dim=0)).sum())
        total += len(a) + len(b)
    return lonely / max(total, 1)


# ----------------------------------------------------------------------------- measuring


def in_turns(
    calls: Mapping[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Seconds of each call, A B A B ..., and the ratio of the second to the first in each turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-args.warmup, args.repeats):
        for name, call in calls.items():
            seconds = timed(call, args.device)
            if turn >= 0:
                times[name].append(seconds)
    first, second = times.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    return {**{name: spread(runs) for name, runs in times.items()}, "ratio": spread(ratios)}


def timed(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


@torch.no_grad()
def measure_parts(
    sides: Sequence[Side], args: argparse.Namespace
) -> dict[str, dict[str, dict[str, Any]]]:
    """Each stage alone; its input is what the stage before gave on our side."""
    ours, peer = sides
    for side in sides:
        side.model.eval()
    with ours.autocast():
        peer.trunk()  # leaves its inputs behind
        features = ours.trunk()
        proposals = ours.proposals(features)
        scored = ours.head(features, proposals)
        return {
            "trunk": in_turns({s.name: s.trunk for s in sides}, args),
            "proposals": in_turns({s.name: partial(s.proposals, features) for s in sides}, args),
            "head": in_turns({s.name: partial(s.head, features, proposals) for s in sides}, args),
            "finish": in_turns({s.name: partial(s.finish, scored, proposals) for s in sides}, args),
        }


def in_own_process(side: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--child", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  itself
    return json.loads(done.stdout)


def measure_memory(args: argparse.Namespace) -> dict[str, float]:
    """MB: the most that training steps hold, and the most that was held before the first."""
    side = make_side(args.child, args)
    before = peak_mb(args.device)
    for _ in range(args.warmup + 1):
        side.step()
    return {"peak": peak_mb(args.device), "before": before}


def peak_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def show(title: str, values: Mapping[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers = {key: item for key, item in value.items() if key != "all"}
            text = "  ".join(f"{key} {item:.4g}" for key, item in numbers.items())
        else:
            text = f"{value:.2e}"
        print(f"  {name:24s} {text}")


if __name__ == "__main__":
    main()
