"""Speed of the data pipeline compared with Pillow and torchvision's v2 transforms.

    python benchmarks/loader.py [--cfg my.yaml] [--workers 0 2] [--images 400] [--json out.json]

Without a config the images are generated JPEGs of 500 x 375, the size of VOC images, which both
sides resize to 800 x 600. The other side is typical torchvision code: Pillow decodes, v2 transforms
flip and resize, images and boxes stay in lists. Both run in turns; ratios are computed within each
turn. Both return uint8; ours also pads the images to one tensor per batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from measuring import describe_machine, in_turns, make_parser, ratios, spread, write_json
from PIL import Image
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.datasets.image import read_image
from resdet.datasets.loading.dataset import DetectionDataset, train_loader
from resdet.datasets.loading.sampling import BatchPlan, SampleKey
from resdet.datasets.loading.transforms import resize
from resdet.detection.config.data_rules import image_rules
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import load_config
from resdet.detection.structures import Batch, Record
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.detector_network import eval_transform, train_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

#: Mean difference of the resized images in grey levels: the two round differently.
PIXEL_TOLERANCE = 2.0


class TorchvisionDataset(Dataset):
    """The same records with Pillow and torchvision: (3, h, w) uint8, boxes and labels."""

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
    parser = make_parser(__doc__, images=400, size=(375, 500), batch=2, threads=1, repeats=3)
    parser.add_argument("--cfg", type=Path, help="use the training data of this config")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        write_json(measure(make_config(args, Path(folder)), args), args)


def make_config(args: argparse.Namespace, folder: Path) -> DetectorConfig:
    if args.cfg:
        return load_config(args.cfg, [])
    make_scenes(folder, train=args.images, val=0, size=tuple(args.size))
    source = {"format": "voc", "root": folder, "split": "train"}
    return DetectorConfig.model_validate({"data": {"train": (source,)}})


def measure(config: DetectorConfig, args: argparse.Namespace) -> dict[str, Any]:
    records = DETECTION.read(config, "train", training=True).records[: args.images]
    print(json.dumps(describe_machine(), indent=1))
    report: dict[str, Any] = {"agreement": compare(records, config)}
    print(f"{len(records)} images, differences {report['agreement']}")
    report["ms_per_image"] = measure_parts(records, config, args.batch)
    for part, milliseconds in report["ms_per_image"].items():
        print(f"  {part:24s} {milliseconds:.3f} ms per image")
    report["images_per_second"] = {}
    for workers in args.workers:
        rates = measure_loaders(records, config, args, workers)
        report["images_per_second"][workers] = rates
        print(f"workers {workers}: images per second, and the ratio ours / torchvision")
        for name, values in rates.items():
            each = spread(values)
            numbers = f"median {each['median']:.2f}  {each['min']:.2f} to {each['max']:.2f}"
            print(f"  {name:24s} {numbers}")
    return report


def compare(records: Sequence[Record], config: DetectorConfig) -> dict[str, float]:
    """Differences of both pipelines without flip on the first images; exits if they are large.

    Sizes may differ by one pixel, because torchvision rounds down.
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
    """Milliseconds per image of the functions that the loader calls, in this process.

    The transform includes the resize; the rest of it is flip and augmentation.
    """
    rules, transform = image_rules(config), train_transform(config)
    dataset = DetectionDataset(records, transform, rules=rules)
    longest = config.image.long_side_max
    shorter = config.image.short_side_train[-1]
    keys = [SampleKey(index, seed=index) for index in range(len(records))]
    total: dict[str, float] = dict.fromkeys(("read and decode", "transform", "resize", "all"), 0.0)
    samples = []
    for key, record in zip(keys, records, strict=True):
        loaded = add_time(total, "read and decode", partial(read_image, record.path, rules))
        arguments = loaded.pixels, record.annotation, key.seed
        add_time(total, "transform", partial(transform, *arguments))
        add_time(total, "resize", partial(resize, loaded.pixels, shorter, longest))
        samples.append(add_time(total, "all", partial(dataset.__getitem__, key)))
        if len(samples) == batch:
            add_time(total, "collate", partial(Batch.collate, samples))
            samples = []
    per_image = {name: 1e3 * seconds / len(records) for name, seconds in total.items()}
    whole, transformed = per_image.pop("all"), per_image.pop("transform")
    per_image["flip and augment"] = transformed - per_image["resize"]
    per_image["checks"] = whole - transformed - per_image["read and decode"]
    return per_image


def add_time(total: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    total[name] = total.get(name, 0.0) + time.perf_counter() - start
    return result


def measure_loaders(
    records: Sequence[Record], config: DetectorConfig, args: argparse.Namespace, workers: int
) -> Mapping[str, list[float]]:
    """Images per second of each side, including the start of the workers, after one warm-up."""
    dataset = DetectionDataset(records, train_transform(config), rules=image_rules(config))
    peer = TorchvisionDataset(records, config, config.image.flip)
    steps = len(records) // args.batch
    plan = BatchPlan([r.size for r in records], batch_size=args.batch, seed=0, steps=steps)

    def load_ours() -> None:
        deque(train_loader(dataset, plan, workers=workers), maxlen=0)

    def load_theirs() -> None:
        loader: DataLoader = DataLoader(
            peer,
            args.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            collate_fn=_as_lists,
        )
        deque(loader, maxlen=0)

    calls = {"ours": load_ours, "torchvision": load_theirs}
    seconds = in_turns(calls, repeats=args.repeats, warmup=1)
    rates = {name: [steps * args.batch / each for each in seconds[name]] for name in calls}
    return rates | {"ratio": ratios(rates["ours"], rates["torchvision"])}


def _as_lists(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


if __name__ == "__main__":
    main()
