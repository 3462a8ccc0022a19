"""Start, memory, sampler, evaluation and checkpoints at the size of COCO and ImageNet.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--images 118000] [--objects 860000]
        [--folder-images 1281167] [--only coco image_folder ...] [--scratch DIR]

Images have few pixels and networks few channels: what is measured depends on the numbers of images
and objects only, and for checkpoints on the weights. Each part runs in a process of its own. `coco`
and `image_folder` are training commands up to their first batch, started twice: the second finds
what the first one left. Memory is that at the first batch; ``own`` was written and is shared with
no other process, ``growth`` is its increase since the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import scale_data
import torch
from measuring import in_own_process, make_parser, peak_mb, timed, write_json
from resdet.datasets.loading.dataset import ImageDataset, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey
from resdet.detection.config.files import read_config
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.evaluation.coco import LIBRARIES, coco_scores
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.report import write_report
from resdet.detection.structures import Batch, Sample
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.registry import TASKS
from resdet.tools.cli import main

Figures = dict[str, float]
WORKERS = 2
#: Training: one step of a network of 8 channels.
TRAIN = {"iterations": 1, "batch_size": 8, "warmup_iterations": 0, "val_loss_batches": 0}


def memory_mb(process: int | str = "self") -> Figures:
    """Resident memory, and the part that was written and that no other process shares."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0]) / 1024
    return {"rss": sizes["Rss"], "own": sizes["Private_Dirty"]}


def children() -> list[int]:
    folder = Path("/proc/self/task")
    return [
        int(pid) for each in folder.iterdir() for pid in (each / "children").read_text().split()
    ]


class Touch(ImageDataset):
    """Reads all of a record, but no image."""

    pad = True

    def __getitem__(self, key: SampleKey) -> Sample:
        record = self.records[key.index]
        seen = (str(record.path), record.size, record.image_label)
        annotation = record.annotation[:0] if any(seen) else None
        return Sample(torch.zeros(1, 1, 3, dtype=torch.uint8), annotation, seed=key.seed)

    def make(self, *_: object) -> Sample:
        raise NotImplementedError


def started(task: Any, *words: object) -> Figures:
    """Train with a command; figures of the time before the first batch is there."""
    figures: Figures = {}
    before, clock = memory_mb(), (time.process_time(), time.perf_counter())
    usual = type(task).train_batches

    def batches(*given: Any) -> Iterator[Batch]:
        stream = iter(usual(*given))
        now = memory_mb()  # no worker shares any of it yet
        figures.update({f"{name}_mb": size for name, size in now.items()})
        figures["peak_mb"] = peak_mb("cpu")
        figures["growth_mb"] = now["own"] - before["own"]
        first = next(stream)
        figures["cpu_s"] = time.process_time() - clock[0]
        figures["wall_s"] = time.perf_counter() - clock[1]
        yield first
        yield from stream

    with mock.patch.object(type(task), "train_batches", batches):
        code = main([task.command, *map(str, words)])
    if code:
        raise SystemExit(f"{task.command}: exit code {code}")
    return figures


def workers(split: Any) -> Figures:
    """The growth of the workers' own memory while they read every record once."""
    count, size = len(split.records), 64
    plan = BatchPlan([(1, 1)] * count, batch_size=size, seed=0, steps=-(-count // size))
    first, now = {}, {}
    for number, _ in enumerate(train_loader(Touch(split.records), plan, workers=WORKERS)):
        if number in (0, len(plan) - 1):
            now = {process: memory_mb(process)["own"] for process in children()}
        first = first or now
    growth = max(now[process] - first[process] for process in now)
    return {"worker_mb": max(now.values()), "worker_growth_mb": growth}


def coco(args: argparse.Namespace) -> Figures:
    """A detector's training."""
    task, folder = TASKS["detection"], args.scratch / "coco"
    sources = {
        split: [
            {
                "format": "coco",
                "images": folder / split,
                "annotations": folder / f"{split}.json",
            }
        ]
        for split in ("train", "val")
    }
    config = {
        "data": {**sources, "workers": WORKERS},
        "image": {"short_side_train": [64], "short_side_test": 64, "long_side_max": 96},
        "backbone": {"depth": 18, "width": 8, "norm": "batch", "frozen_stages": 0},
        "train": TRAIN,
    }
    return _trained(task, config, args.scratch)


def image_folder(args: argparse.Namespace) -> Figures:
    """A classifier's training."""
    source = {"format": "image_folder", "root": args.scratch / "image_folder"}
    config = {
        "data": {"source": source, "workers": WORKERS},
        "network": {"depth": 18, "width": 8},
        "crop": {"size": 32},
        "test": {"size": 32, "resize": 36},
        "train": {name: TRAIN[name] for name in TRAIN if name != "val_loss_batches"},
    }
    return _trained(TASKS["classification"], config, args.scratch)


def _trained(task: Any, content: dict[str, Any], scratch: Path) -> Figures:
    """A start of training, and workers that read its records."""
    path = scratch / f"{task.name}.yaml"
    path.write_text(json.dumps(content, default=str))
    with TemporaryDirectory(dir=scratch) as folder:
        figures = started(task, "--cfg", path, "--out", folder)
    config = read_config(task.schema, path)
    return figures | workers(task.read(config, "train", training=True))


def sampler(args: argparse.Namespace) -> Figures:
    """The plan of two epochs."""
    figures = {}
    for name, count in (("coco", args.images), ("image_folder", args.folder_images)):
        sizes = [scale_data.SIZES[number % 4] for number in range(count)]
        plan = BatchPlan(sizes, batch_size=16, seed=0, steps=2 * -(-count // 16))
        stream = iter(plan)
        figures[f"{name}_first_s"] = timed(lambda stream=stream: next(stream))
        seconds = timed(lambda stream=stream: [None for _ in stream])
        figures[f"{name}_batches_per_s"] = (len(plan) - 1) / seconds
    return figures


def evaluation(args: argparse.Namespace) -> Figures:
    """What `resdet eval` computes and writes of detections in memory: CPU seconds of each step, and
    the peak memory after it, beyond that of the detections. COCO's numbers come last, as nothing
    else takes as much."""
    records, found = scale_data.found_in(args.eval_images, args.detections)
    names, before = [f"class {label}" for label in range(scale_data.CLASSES)], peak_mb("cpu")
    figures: Figures = {}

    def measured(step: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        figures[f"{step}_s"] = time.process_time() - start
        figures[f"{step}_peak_mb"] = peak_mb("cpu") - before
        return result

    columns = measured("gather", lambda: gather(found, records, len(names)))
    scored = measured("voc", lambda: evaluate_columns(columns, names, coco=None))
    measured("errors", lambda: (scored.analysis.counts, scored.analysis.costs))
    measured("intervals", lambda: scored.intervals)
    measured("images", scored.image_entries)
    measured("report", lambda: write_report(scored, args.scratch / "eval"))
    for library in (name for name in LIBRARIES if find_spec(name)):
        measured(library, lambda name=library: coco_scores(columns, library=name))
    return figures


def checkpoint(args: argparse.Namespace) -> Figures:
    """A detector with momenta and averages: writing and resuming."""
    from resdet.datasets.acquire.synthetic import make_scenes

    task = TASKS["detection"]
    make_scenes(args.scratch / "scenes", train=2, val=1, size=(64, 96))
    source = {"format": "voc", "root": args.scratch / "scenes"}
    content = {
        "data": {split: [{**source, "split": split}] for split in ("train", "val")},
        "image": {"short_side_train": [64], "short_side_test": 64, "long_side_max": 96},
        "backbone": {"depth": args.depth, "norm": "batch", "frozen_stages": 0},
        "train": {**TRAIN, "batch_size": 2, "ema_decay": 0.999},
    }
    content["data"]["workers"] = 0
    cfg, out = args.scratch / "checkpoint.yaml", args.scratch / "run"
    cfg.write_text(json.dumps(content, default=str))
    figures = {
        f"fresh_{name}": value for name, value in started(task, "--cfg", cfg, "--out", out).items()
    }
    path = out / "weights" / "last.pt"
    figures["file_mb"] = path.stat().st_size / 2**20
    figures["read_s"] = timed(lambda: read_checkpoint(path, task))
    state = read_checkpoint(path, task).state
    figures["write_s"] = timed(lambda: save_checkpoint(args.scratch / "again.pt", state))
    return figures


def resumed(args: argparse.Namespace) -> Figures:
    """The run of `checkpoint`, continued for a step."""
    return started(TASKS["detection"], "--resume", args.scratch / "run", "train.iterations=2")


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "coco": coco,
    "image_folder": image_folder,
    "sampler": sampler,
    "evaluation": evaluation,
    "checkpoint": checkpoint,
    "resumed": resumed,
}
#: Parts that start twice: what the first start leaves may help the second.
TWICE = ("coco", "image_folder")


def make_data(args: argparse.Namespace) -> None:
    if "coco" in args.only:
        scale_data.coco(args.scratch / "coco", args.images, args.objects)
    if "image_folder" in args.only:
        scale_data.class_folders(args.scratch / "image_folder", args.folder_images)


def run() -> None:
    parser = make_parser(
        __doc__,
        images=118_000,
        objects=860_000,
        folder_images=1_281_167,
        eval_images=5_000,
        detections=500_000,
        depth=101,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scratch", type=Path, help="folder of the data, made and removed")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args)))
        return
    report: dict[str, Figures] = {}
    with TemporaryDirectory(dir=args.scratch) as folder:
        args.scratch = Path(folder)
        os.environ["RESDET_CACHE"] = str(args.scratch / "cache")
        # In a process of its own: the peak memory of a process includes that of its parent.
        maker = get_context("spawn").Process(target=make_data, args=(args,))
        maker.start()
        maker.join()
        for part in args.only:
            for number in range(1 + (part in TWICE)):
                name = f"{part}, second start" if number else part
                report[name] = in_own_process("--part", part, "--scratch", folder)
                print(name, {key: round(value, 2) for key, value in report[name].items()})
                write_json({"figures": report}, args)


if __name__ == "__main__":
    run()
