"""How many images a second does the data pipeline deliver, and where does its time go?

    python benchmarks/loader.py [--cfg my.yaml] [--workers 0 2] [--images 400] [--json out.json]

Without a configuration the images are drawn: JPEGs of VOC's size, 500 x 375, which both sides
resize to 800 x 600. Beside ours runs what a torchvision user writes: Pillow decodes, v2 transforms
flip and resize, images with their boxes stay lists. The two run in turns, and a ratio is taken in
each turn. Both deliver uint8; ours also pads to one tensor per batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.datasets.image import read_image
from resdet.datasets.loading.dataset import DetectionDataset, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey
from resdet.datasets.loading.transforms import resize
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import load_config
from resdet.detection.environment import describe_environment
from resdet.detection.structures import Batch, Record
from resdet.detection.tasks.base import image_rules
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.detector_network import eval_transform, train_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

#: Grey levels, mean difference of the resized images: the two round differently.
PIXEL_TOLERANCE = 2.0


class TorchvisionDataset(Dataset):
    """The same records with Pillow and torchvision: (3, h, w) uint8 and its boxes and labels."""

    def __init__(self, records: Sequence[Record], config: DetectorConfig, flip: float) -> None:
        image = config.image
        self.records = records
        self.transform = v2.Compose(
            [
                v2.PILToTensor(),
                v2.RandomHorizontalFlip(flip),
                v2.RandomShortestSize(list(image.short_side_train), image.long_side_max),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self.records[index]
        with Image.open(record.path) as file:
            image = file.convert("RGB")
        boxes = BoundingBoxes(record.annotation.boxes, format="XYXY", canvas_size=record.size)
        return self.transform(image, {"boxes": boxes, "labels": record.annotation.labels})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cfg", type=Path, help="measure the training data of this configuration")
    parser.add_argument("--images", type=int, default=400, help="drawn, and read in each turn")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2))
    parser.add_argument("--threads", type=int, default=1, help="of the main process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        report = measure(make_config(args, Path(folder)), args)
    if args.json:
        args.json.write_text(json.dumps(report, default=str, indent=1) + "\n")


def make_config(args: argparse.Namespace, folder: Path) -> DetectorConfig:
    if args.cfg:
        return load_config(args.cfg, [])
    make_scenes(folder, train=args.images, val=0, size=tuple(args.size))
    source = {"format": "voc", "root": folder, "split": "train"}
    return DetectorConfig.model_validate({"data": {"train": (source,)}})


def measure(config: DetectorConfig, args: argparse.Namespace) -> dict[str, Any]:
    records = DETECTION.read(config, "train", training=True).records[: args.images]
    report: dict[str, Any] = {"machine": describe_environment(), "settings": vars(args)}
    print(json.dumps(report["machine"], indent=1))
    report["agreement"] = compare(records, config)
    print(f"{len(records)} images, differences {report['agreement']}")
    report["ms_per_image"] = measure_parts(records, config, args.batch)
    for part, milliseconds in report["ms_per_image"].items():
        print(f"  {part:24s} {milliseconds:.3f} ms an image")
    report["images_per_second"] = {}
    for workers in args.workers:
        rates = in_turns(records, config, args, workers)
        report["images_per_second"][workers] = rates
        print(f"workers {workers}: images a second, and the ratio ours / torchvision")
        for name, values in rates.items():
            low, high = min(values), max(values)
            print(f"  {name:24s} median {statistics.median(values):.2f}  {low:.2f} to {high:.2f}")
    return report


def compare(records: Sequence[Record], config: DetectorConfig) -> dict[str, float]:
    """Both pipelines without flip on the first images; ends the program where they disagree.

    Sizes may differ by the one pixel that torchvision rounds down.
    """
    one_scale = config.image.model_copy(
        update={"short_side_train": (config.image.short_side_test,)}
    )
    peer = TorchvisionDataset(records, config.model_copy(update={"image": one_scale}), flip=0.0)
    ours = DetectionDataset(records, eval_transform(config), rules=image_rules(config))
    size, pixels, boxes = 0.0, 0.0, 0.0
    for index in range(min(8, len(records))):
        sample, (image, target) = ours[SampleKey(index, 0)], peer[index]
        wanted = sample.image.permute(2, 0, 1)
        height, width = (min(a, b) for a, b in zip(wanted.shape[1:], image.shape[1:], strict=True))
        difference = wanted[:, :height, :width].float() - image[:, :height, :width]
        size = max(size, *(abs(a - b) for a, b in zip(wanted.shape, image.shape, strict=True)))
        pixels = max(pixels, float(difference.abs().mean()))
        shift = (sample.annotation.boxes - target["boxes"]).abs()
        boxes = max(boxes, float(shift.max()) if len(shift) else 0.0)
    if size > 1 or pixels > PIXEL_TOLERANCE or boxes > 1:
        raise SystemExit(f"the pipelines disagree: size {size}, pixels {pixels}, boxes {boxes}")
    return {"size_px": size, "pixels_levels": pixels, "boxes_px": boxes}


def measure_parts(
    records: Sequence[Record], config: DetectorConfig, batch: int
) -> dict[str, float]:
    """Milliseconds an image in this process, by timing the functions that the loader calls.

    The resize is inside the transform; what is left of that is the flip and the augmentation.
    """
    rules, transform = image_rules(config), train_transform(config)
    dataset = DetectionDataset(records, transform, rules=rules)
    longest = config.image.long_side_max
    shorter = config.image.short_side_train[-1]
    keys = [SampleKey(index, seed=index) for index in range(len(records))]
    total: dict[str, float] = dict.fromkeys(("read and decode", "transform", "resize", "all"), 0.0)
    samples = []
    for key, record in zip(keys, records, strict=True):
        loaded = timed(total, "read and decode", partial(read_image, record.path, rules))
        arguments = loaded.pixels, record.annotation, key.seed
        timed(total, "transform", partial(transform, *arguments))
        timed(total, "resize", partial(resize, loaded.pixels, shorter, longest))
        samples.append(timed(total, "all", partial(dataset.__getitem__, key)))
        if len(samples) == batch:
            timed(total, "collate", partial(Batch.collate, samples))
            samples = []
    per_image = {name: 1e3 * seconds / len(records) for name, seconds in total.items()}
    whole, transformed = per_image.pop("all"), per_image.pop("transform")
    per_image["flip and augment"] = transformed - per_image["resize"]
    per_image["checks"] = whole - transformed - per_image["read and decode"]
    return per_image


def timed(total: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    total[name] = total.get(name, 0.0) + time.perf_counter() - start
    return result


def in_turns(
    records: Sequence[Record], config: DetectorConfig, args: argparse.Namespace, workers: int
) -> Mapping[str, list[float]]:
    """Images a second of each side, start of the workers included, after one turn of warm-up."""
    dataset = DetectionDataset(records, train_transform(config), rules=image_rules(config))
    peer = TorchvisionDataset(records, config, config.image.flip)
    steps = len(records) // args.batch
    plan = BatchPlan([r.size for r in records], batch_size=args.batch, seed=0, steps=steps)
    rates: dict[str, list[float]] = {"ours": [], "torchvision": [], "ratio": []}
    for turn in range(-1, args.repeats):
        ours = rate(train_loader(dataset, plan, workers=workers), steps * args.batch)
        loader: DataLoader = DataLoader(
            peer,
            args.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            collate_fn=_as_lists,
        )
        theirs = rate(loader, steps * args.batch)
        if turn >= 0:
            for name, value in zip(rates, (ours, theirs, ours / theirs), strict=True):
                rates[name].append(value)
    return rates


def rate(batches: Iterable[object], images: int) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return images / (time.perf_counter() - start)


def _as_lists(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


if __name__ == "__main__":
    main()
