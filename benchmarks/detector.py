"""Speed and training memory of the detector compared with torchvision's Faster R-CNN.

    python benchmarks/detector.py [--device cuda --precision bf16] [--threads 2] [--json out.json]

Both sides have the same random weights, settings and input and run in turns in one process, so that
other load on the machine affects both. Ratios are computed within each turn. The outputs are
compared first. Peak memory is measured in a separate process for each side. Both sides keep freed
memory; with ``--apart``, torchvision's also runs in a process of its own that does not
(`apart.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from apart import Apart
from measuring import (
    CLOCKS,
    describe_machine,
    in_own_process,
    in_turns,
    make_parser,
    peak_mb,
    ratios,
    spread,
    write_json,
)
from resdet.detection.processor import keep_memory
from resdet.detection.structures import Detections
from sides import SIDES, Side, make_side
from torch import Tensor

MEASUREMENTS = ("inference", "parts", "train", "memory")
#: {precision: (largest difference of a tensor relative to its largest value, largest fraction of
#: boxes that only one side has)}. bf16 rounds most boxes by more than the allowed 0.05 px.
TOLERANCE = {"fp32": (1e-4, 0.02), "bf16": (5e-2, 1.0)}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    keep_memory()  # as the commands do; the other side gains by it too
    if args.child:
        print(json.dumps(measure_memory(args)))
        return
    print(json.dumps(describe_machine() | vars(args), default=str, indent=1))
    report: dict[str, Any] = {}
    if "memory" in args.measure:
        # First: on Linux, a child process inherits the peak memory of its parent.
        report["memory_mb"] = {name: in_own_process("--child", name) for name in SIDES}
        show("training step, peak MB", report["memory_mb"])
    sides = [make_side(name, args) for name in SIDES]
    report["agreement"] = compare(sides, precision=args.precision)
    show("largest difference / largest value", report["agreement"])
    with ExitStack() as stack:
        all_sides = [*sides, *([stack.enter_context(Apart(args))] if args.apart else [])]
        if "inference" in args.measure:
            report["inference_s"] = compare_times({s.name: s.detect for s in all_sides}, args)
            show("inference, s", report["inference_s"])
        if "parts" in args.measure:
            report["parts_s"] = measure_parts(sides, args)
            for part, result in report["parts_s"].items():
                show(f"{part}, s", result)
        if "train" in args.measure:
            report["train_s"] = compare_times({s.name: s.step for s in all_sides}, args)
            show("training step, s", report["train_s"])
    write_json(report, args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        device="cpu",
        threads=torch.get_num_threads(),
        repeats=5,
        warmup=2,
        size=(600, 1000),
        batch=1,
        depth=101,
        classes=20,
    )
    parser.add_argument("--precision", default="fp32", choices=tuple(TOLERANCE))
    parser.add_argument("--measure", nargs="+", default=MEASUREMENTS, choices=MEASUREMENTS)
    parser.add_argument("--proposals", type=int, default=300, help="per image, in inference")
    parser.add_argument("--rois", type=int, default=128, help="per image, in training")
    parser.add_argument(
        "--peer-layout",
        default="contiguous",
        choices=("contiguous", "channels_last"),
        help="memory layout of torchvision's network (its default is contiguous)",
    )
    parser.add_argument(
        "--peer-precision", choices=tuple(TOLERANCE), help="of torchvision's network; default: ours"
    )
    parser.add_argument(
        "--winograd", type=int, default=0, help="use Winograd's method from so many channels on"
    )
    parser.add_argument(
        "--clock",
        default="wall",
        choices=tuple(CLOCKS),
        help="cpu: one thread on a busy machine",
    )
    parser.add_argument(
        "--apart", action="store_true", help="add torchvision's with memory as in a new process"
    )
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


@torch.no_grad()
def compare(sides: Sequence[Side], *, precision: str) -> dict[str, float]:
    """Differences of all stages on the same input; exits if one is above `TOLERANCE`.

    Proposals and detections are compared as sets: rounding may change their order, or move a score
    across a threshold.
    """
    ours, peer = sides
    peer.model.eval()
    with ours.autocast():
        features = ours.trunk()
        proposals = ours.proposals(features)
        scored = ours.head(features, proposals)
        found = ours.finish(scored, proposals)
    with peer.autocast():
        their_features = peer.trunk()
        their_proposals = peer.proposals(features)
        their_scored = peer.head(features, proposals)
        their_found = peer.finish(scored, proposals)
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
    """(D, 6) box, label and score, scaled so that different labels are far apart."""
    return torch.cat([found.boxes, found.labels[:, None] * 1e4, found.scores[:, None] * 100], dim=1)


def unmatched(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Fraction of rows without a row of the other side within 0.05."""
    missing, total = 0, 0
    for a, b in zip(first, second, strict=True):
        near = torch.cdist(a.float(), b.float(), p=torch.inf) < 0.05
        missing += int((~near.any(dim=1)).sum() + (~near.any(dim=0)).sum())
        total += len(a) + len(b)
    return missing / max(total, 1)


def compare_times(
    calls: Mapping[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Seconds of each call, and the ratios of the others to the first in each turn, under their
    names with ``ratio`` in place of the toolkit."""
    seconds = in_turns(
        calls, repeats=args.repeats, warmup=args.warmup, device=args.device, clock=args.clock
    )
    ours, *peers = seconds
    for peer in peers:
        _, comma, condition = peer.partition(",")
        seconds[f"ratio{comma}{condition}"] = ratios(seconds[peer], seconds[ours])
    return {name: spread(values) for name, values in seconds.items()}


@torch.no_grad()
def measure_parts(
    sides: Sequence[Side], args: argparse.Namespace
) -> dict[str, dict[str, dict[str, Any]]]:
    """Time of each stage; both sides get the input that our previous stage computed."""
    ours, peer = sides
    peer.model.eval()
    peer.trunk()  # stores the inputs of the other stages
    with ours.autocast():
        features = ours.trunk()
        proposals = ours.proposals(features)
        scored = ours.head(features, proposals)

    def run(side: Side, stage: str, *inputs: Any) -> None:
        with side.autocast():
            getattr(side, stage)(*inputs)

    stages: dict[str, tuple[Any, ...]] = {
        "trunk": (),
        "proposals": (features,),
        "head": (features, proposals),
        "finish": (scored, proposals),
    }
    return {
        stage: compare_times({s.name: partial(run, s, stage, *inputs) for s in sides}, args)
        for stage, inputs in stages.items()
    }


def measure_memory(args: argparse.Namespace) -> dict[str, float]:
    """Peak memory in MB during training steps, and before the first step."""
    side = make_side(args.child, args)
    before = peak_mb(args.device)
    for _ in range(args.warmup + 1):
        side.step()
    return {"peak": peak_mb(args.device), "before": before}


def show(title: str, values: Mapping[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers = {key: item for key, item in value.items() if key != "all"}
            text = "  ".join(f"{key} {item:.4g}" for key, item in numbers.items())
        else:
            text = f"{value:.2e}"
        print(f"  {name:28s} {text}")


if __name__ == "__main__":
    main()
