"""Time of a detector in int8 beside its own in fp32 and torchvision's Faster R-CNN.

    python benchmarks/int8.py [--threads 2] [--size 600 1000] [--json out.json]

R101-C4 with random weights, cut at its crops and quantized as `resdet export --int8` does, by
onnxruntime and, where the extra ``nncf`` is installed, for OpenVINO. All run in one process, in
turns, on one image; each turn gives seconds on the wall and of the processor. torchvision's also
runs in a process of its own that gives freed memory back (`apart.py`). The weights say nothing
about accuracy: that needs a trained detector.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from apart import Apart
from measuring import CLOCKS, Spent, describe_machine, make_parser, write_json
from resdet.detection.errors import ConfigError
from resdet.detection.export.folder import HEAD, MAP, RPN, TRUNK, graph_file, parts_in
from resdet.detection.export.parts import head_inputs, part_graphs, use_parts, write_siblings
from resdet.detection.export.quantize import CHOICES, int8_instructions, quantize
from resdet.detection.export.writing import write_graph
from resdet.detection.extras import require_extra
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.processor import keep_memory
from resdet.detection.tasks.detector_network import build_pipeline
from resdet.detection.tasks.quantizing import REGIONS
from sides import Ours, make_side
from torch import Tensor

FORMATS = {"onnx": "export", "openvino": "nncf"}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    keep_memory()  # as the commands do; the other sides gain by it too
    print(json.dumps(describe_machine() | {"int8": int8_instructions()} | vars(args), default=str))
    ours, peer = make_side("ours", args), make_side("torchvision", args)
    assert isinstance(ours, Ours)  # noqa: S101  narrows types
    calls: dict[str, Callable[[], object]] = {"ours, fp32": ours.detect}
    with tempfile.TemporaryDirectory() as scratch, Apart(args) as apart:
        for form, extra in FORMATS.items():
            try:
                require_extra(extra)
            except ConfigError as error:
                print(f"{form}: {error}")
                continue
            pipeline = int8_pipeline(ours, Path(scratch) / form, form)
            calls[f"int8, {form}"] = lambda pipeline=pipeline: pipeline.predict(ours.batch)
        calls["torchvision, fp32"] = peer.detect
        calls["the same, memory returned"] = apart.detect
        report = measure(calls, args)
    for name, row in report.items():
        numbers = "  ".join(f"{key} {value:.2f}" for key, value in row.items() if key != "all")
        print(f"{name:26s} {numbers}")
    write_json({"seconds": report}, args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
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
    parser.set_defaults(
        device="cpu", precision="fp32", peer_precision="fp32", peer_layout="contiguous"
    )
    return parser.parse_args()


@torch.no_grad()
def int8_pipeline(ours: Ours, folder: Path, form: str) -> Pipeline:
    """The detector with the first choice of float layers, in ``folder``."""
    floats = folder / "float"
    floats.mkdir(parents=True)
    for name, graph in part_graphs(ours.deployed).items():
        write_graph(graph, floats, name, form)
    (kept, *_) = CHOICES.values()
    inputs = calibration(ours)
    for name in parts_in(floats):
        source = graph_file(floats, name)
        quantize(source, folder / source.name, [inputs[name]], kept.get(name, range(0)))
    write_siblings(ours.deployed, folder)
    parts = use_parts(deepcopy(ours.model).eval(), folder)
    return build_pipeline([replace(ours.detector, model=parts)]).eval()


def calibration(ours: Ours) -> dict[str, tuple[Tensor, ...]]:
    """The inputs of each graph for the image that is timed."""
    model, batch = ours.deployed, ours.batch
    features = ours.trunk()
    regions = [boxes[:: max(1, len(boxes) // REGIONS)] for boxes in ours.proposals(features)]
    return {
        TRUNK: (model.pixels(batch.images, batch.sizes),),
        RPN: (features,),
        MAP: (features,),
        HEAD: head_inputs(model, features, regions),
    }


def measure(calls: Mapping[str, Callable[[], object]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians of the turns: seconds on the wall and of the processor, and the ratio of ours in fp32
    to each in these."""
    turns: dict[str, list[Spent]] = {name: [] for name in calls}
    for turn in range(-args.warmup, args.repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            elsewhere = call()
            spent = Spent(time.perf_counter() - wall, time.process_time() - cpu)
            if isinstance(elsewhere, Spent):
                spent = elsewhere
            if turn >= 0:
                turns[name].append(spent)
    own = turns["ours, fp32"]
    return {
        name: {
            "wall": statistics.median(each.wall for each in spent),
            "cpu": statistics.median(each.cpu for each in spent),
            **{
                f"ours / it, {clock}": statistics.median(
                    getattr(a, clock) / getattr(b, clock) for a, b in zip(own, spent, strict=True)
                )
                for clock in CLOCKS
            },
            "all": spent,
        }
        for name, spent in turns.items()
    }


if __name__ == "__main__":
    main()
