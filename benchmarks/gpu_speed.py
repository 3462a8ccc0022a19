"""Speed on a GPU beside torchvision: training and inference of detectors, training of a classifier,
and the data pipeline. Each part yields a row for each network, size and batch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from gpu_rows import Part, Row, Setup
from measuring import in_turns
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.engine.gpu_settings import gpu_settings
from resdet.detection.structures import Batch, Geometry
from resdet.detection.tasks.classifier_network import build_classifier
from sides import SIDES, make_side, sgd_step
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]
TURNS, WARM_UP = 3, 2
SIZES = ((600, 1000), (800, 1333))


def matrix_peak(setup: Setup) -> float:
    """Products per second of a large bf16 matrix product, in TFLOPS (2 per multiply-add)."""
    side = setup.pick(8192, 256)
    one = torch.randn(side, side, device=setup.device, dtype=torch.bfloat16)
    seconds = in_turns({"peak": lambda: one @ one}, repeats=5, warmup=3, device=setup.device)
    return 2 * side**3 / min(seconds["peak"]) / 1e12


def beside(setup: Setup, calls: Mapping[str, Call], images: int) -> tuple[dict[str, float], str]:
    """Images per second of ours and of torchvision, measured in turns, their ratio, and the peak
    memory of each above what was allocated before; a side that lacks memory is a note."""
    values: dict[str, float] = {}
    fitting: dict[str, Call] = {}
    lacking = []
    for name, call in calls.items():
        try:
            if setup.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            call()
            if setup.device == "cuda":
                values[f"{name} MB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
            fitting[name] = call
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            lacking.append(f"{name}: out of memory")
    seconds = in_turns(
        fitting, repeats=setup.pick(TURNS, 1), warmup=setup.pick(WARM_UP, 0), device=setup.device
    )
    for name, turns in seconds.items():
        values[f"{name} images/s"] = images / median(turns)
    if len(seconds) == len(SIDES):
        ours, theirs = (seconds[name] for name in SIDES)
        values["ratio"] = median(b / a for a, b in zip(ours, theirs, strict=True))
    return values, "; ".join(lacking)


def work(call: Call) -> float:
    """Floating-point operations of a call, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def detectors(setup: Setup, batches: tuple[int, int], method: str) -> Iterator[Row]:
    """Rows of ``method``, "step" or "detect", of both sides with the same weights and images."""
    peak = matrix_peak(setup) if method == "step" else 0.0
    if peak:
        yield Row("matrix product, bf16", {"TFLOPS": peak})
    depths, sizes = ((18,), ((64, 96),)) if setup.small else ((50, 101), SIZES)
    for depth, size, batch in product(depths, sizes, batches):
        args = argparse.Namespace(
            size=size,
            batch=batch,
            depth=depth,
            classes=20,
            proposals=setup.pick(300, 20),
            rois=setup.pick(512, 16),
            device=setup.device,
            precision="bf16",
            peer_precision=None,
            peer_layout="contiguous",
        )
        calls = {name: getattr(make_side(name, args), method) for name in SIDES}
        values, note = beside(setup, calls, batch)
        if peak and f"{SIDES[0]} images/s" in values:
            rate = work(calls[SIDES[0]]) / batch * values[f"{SIDES[0]} images/s"]
            values["share of peak"] = rate / peak / 1e12
        what = "training" if method == "step" else "inference"
        yield Row(f"{what} R{depth} {size[0]}x{size[1]} b{batch}", values, note=note)


def detector_training(setup: Setup) -> Iterator[Row]:
    return detectors(setup, (1, 2) if setup.small else (2, 16), "step")


def detector_inference(setup: Setup) -> Iterator[Row]:
    return detectors(setup, (1, 2) if setup.small else (1, 8), "detect")


def classifier_training(setup: Setup) -> Iterator[Row]:
    """R50 at 224 px with batch norm and SGD, bf16."""
    count, side = setup.pick(256, 4), setup.pick(224, 32)
    depth, device = setup.pick(50, 18), torch.device(setup.device)
    config = ClassifierConfig.model_validate({"network": {"depth": depth, "norm": "batch"}})
    ours = build_classifier(config, 1000).to(device).train()
    peer = getattr(torchvision.models, f"resnet{depth}")().to(device).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, side, side), generator=generator).to(torch.uint8)
    geometry = Geometry((side, side))
    batch = Batch(
        images.contiguous(memory_format=torch.channels_last),
        [geometry.original] * count,
        [],
        [geometry] * count,
        ["image"] * count,
        list(range(count)),
        torch.randint(1000, (count,), generator=generator),
    ).to(device)
    floats = (batch.images / 255).contiguous()
    calls = {
        SIDES[0]: sgd_step(ours, lambda: ours(batch)["loss_cls"], device, "bf16"),
        SIDES[1]: sgd_step(
            peer, lambda: F.cross_entropy(peer(floats), batch.labels), device, "bf16"
        ),
    }
    with gpu_settings(TrainConfig(), device, fixed_size=True):
        values, note = beside(setup, calls, count)
    if f"{SIDES[0]} images/s" in values:
        rate = work(calls[SIDES[0]]) / count * values[f"{SIDES[0]} images/s"]
        values["share of peak"] = rate / matrix_peak(setup) / 1e12
    yield Row(f"training classifier R{depth} b{count}", values, note=note)


def data_pipeline(setup: Setup) -> Iterator[Row]:
    """`loader.py` in a process of its own: JPEGs of 500 x 375 to 800 x 600, with this CPU."""
    report = setup.scratch / "loader.json"
    workers = "0" if setup.small else "8"
    size = "64 96" if setup.small else "375 500"
    options = f"--images {setup.pick(1200, 6)} --size {size} --workers {workers} --repeats 1"
    script = Path(__file__).with_name("loader.py")
    command = [sys.executable, str(script), *options.split(), "--json", str(report)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  a script of ours
    rates: dict[str, Any] = json.loads(report.read_text())["images_per_second"][workers]
    values = {f"{name} images/s": median(rates[name]) for name in SIDES}
    yield Row("data pipeline", {**values, "workers": float(workers)})


SPEED: dict[str, Part] = {
    "detector_training": detector_training,
    "detector_inference": detector_inference,
    "classifier_training": classifier_training,
    "data_pipeline": data_pipeline,
}
