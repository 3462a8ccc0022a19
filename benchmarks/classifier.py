"""Images per second of a classifier with its data pipeline, beside torchvision's in a plain loop.

    python benchmarks/classifier.py [--precision bf16] [--threads 2] [--measure training one_crop]
        [--winograd 256]

The images are JPEGs of generated scenes in class folders. All sides have the same weights and run
in turns in one process without workers, which keeps freed memory; the outputs are compared first.
torchvision's side is typical code: ImageFolder, v2 transforms, DataLoader; in training also its
network alone, which gets the same ready batch again and again. Ratios are ours / theirs, computed
within each turn; ``data`` is our pipeline alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from measuring import CLOCKS, describe_machine, in_turns, make_parser, ratios, spread, write_json
from resdet.backbones.norm import fold_norms
from resdet.backbones.winograd import use_winograd
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.evaluation.prediction import autocast
from resdet.detection.models.classifier import Classifier
from resdet.detection.processor import keep_memory
from resdet.detection.tasks.base import ALONE, Loaded
from resdet.detection.tasks.classifier import CLASSIFICATION
from sides import sgd_step
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision_c4 import torchvision_name

MEASUREMENTS = ("training", "one_crop", "ten_crop")
CPU = torch.device("cpu")
#: Difference of the logits, relative to the largest.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}

Call = Callable[[], object]


def main() -> None:
    args = parse_arguments()
    keep_memory()
    torch.set_num_threads(args.threads)
    print(json.dumps(describe_machine(), indent=1))
    with tempfile.TemporaryDirectory() as folder:
        make_folders(Path(folder), args)
        write_json(measure(make_config(args, Path(folder)), args), args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        depth=18,
        images=320,
        classes=40,
        size=(375, 500),
        side=112,
        batch=32,
        steps=5,
        threads=torch.get_num_threads(),
        repeats=3,
        warmup=1,
    )
    parser.add_argument("--precision", default="fp32", choices=tuple(TOLERANCE))
    parser.add_argument("--measure", nargs="+", default=MEASUREMENTS, choices=MEASUREMENTS)
    parser.add_argument(
        "--peer-layout",
        default="channels_last",
        choices=("contiguous", "channels_last"),
        help="memory layout of torchvision's network (its default is contiguous)",
    )
    parser.add_argument(
        "--winograd", type=int, default=0, help="use Winograd's method from so many channels on"
    )
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
    return parser.parse_args()


def make_folders(folder: Path, args: argparse.Namespace) -> None:
    """``train`` and ``val`` with the same images, dealt out to the classes."""
    make_scenes(folder / "scenes", train=args.images, val=0, size=tuple(args.size))
    for number, image in enumerate(sorted((folder / "scenes" / "JPEGImages").iterdir())):
        for split in ("train", "val"):
            of_class = folder / "classes" / split / f"class{number % args.classes:03d}"
            of_class.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, of_class)


def make_config(args: argparse.Namespace, folder: Path) -> ClassifierConfig:
    turns = args.repeats + args.warmup
    return ClassifierConfig.model_validate(
        {
            "data": {
                "source": {"format": "image_folder", "root": folder / "classes"},
                "workers": 0,
                "cache_records": False,
            },
            "crop": {"kind": "resized", "size": args.side, "scale": (0.25, 1.0)},
            "network": {"depth": args.depth},
            "train": {
                "iterations": 2 * turns * args.steps,
                "batch_size": args.batch,
                "base_batch_size": args.batch,
                "lr": 1e-6,
            },
            "test": {
                "resize": args.side * 8 // 7,
                "size": args.side,
                "batch_size": args.batch,
            },
        }
    )


def measure(config: ClassifierConfig, args: argparse.Namespace) -> dict[str, Any]:
    ours = CLASSIFICATION.build(config, args.classes)
    peer = peer_of(ours, args)
    batch = next(training_batches(config))
    report: dict[str, Any] = {"agreement": compare(ours, peer, batch.images, args.precision)}
    print(f"largest difference / largest value: {report['agreement']}")
    for name in args.measure:
        if name == "training":
            calls = training_calls(deepcopy(ours), deepcopy(peer), config, args)
            images = args.steps * args.batch
        else:
            calls = testing_calls(ours, peer, config, args, name)
            images = args.images
        seconds = in_turns(calls, repeats=args.repeats, warmup=args.warmup, clock=args.clock)
        report[name] = rates(seconds, images)
        show(name, report[name])
    return report


def peer_of(ours: Classifier, args: argparse.Namespace) -> nn.Module:
    """torchvision's network with our weights."""
    peer = getattr(torchvision.models, f"resnet{args.depth}")(num_classes=args.classes)
    state = ours.network.state_dict()
    peer.load_state_dict({torchvision_name(name): tensor for name, tensor in state.items()})
    if args.peer_layout == "channels_last":
        return peer.to(memory_format=torch.channels_last)
    return peer


@torch.no_grad()
def compare(ours: Classifier, peer: nn.Module, images: Tensor, precision: str) -> float:
    """Largest relative difference of the logits; exits if it is above `TOLERANCE`."""
    with autocast(CPU, precision):
        found = ours.eval().logits(images).float()
        wanted = peer.eval()(normalise(images)).float()
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE[precision]:
        raise SystemExit(f"the two networks disagree: {difference}")
    return difference


def normalise(images: Tensor) -> Tensor:
    """(N, 3, h, w) uint8 as torchvision's network expects it."""
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    return v2.functional.normalize(scaled, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def training_batches(config: ClassifierConfig) -> Iterator[Any]:
    split = CLASSIFICATION.read(config, "train", training=True)
    return iter(CLASSIFICATION.train_batches(config, split, None, 0, ALONE))


def training_calls(
    ours: Classifier, peer: nn.Module, config: ClassifierConfig, args: argparse.Namespace
) -> dict[str, Call]:
    """``args.steps`` steps of each side; ``data`` only reads our batches."""
    batches, others = training_batches(config), training_batches(config)
    loader = peer_loader(
        config, "train", v2.RandomResizedCrop(args.side, (0.25, 1.0)), v2.RandomHorizontalFlip()
    )
    theirs = iter(cycle_loader(loader))
    ready = next(theirs)
    if args.winograd:
        use_winograd(ours, args.winograd, training=True)
    ours.train(), peer.train()
    step = sgd_step(ours, lambda batch: ours(batch)["loss_cls"], CPU, args.precision)
    peer_step = sgd_step(
        peer,
        lambda batch: F.cross_entropy(peer(normalise(batch[0])), batch[1]),
        CPU,
        args.precision,
    )

    def run(one: Callable[[Any], object], source: Iterable[Any]) -> Call:
        def steps() -> None:
            for batch in islice(source, args.steps):
                one(batch)

        return steps

    return {
        "ours": run(step, batches),
        "torchvision": run(peer_step, theirs),
        "torchvision, network alone": run(peer_step, cycle([ready])),
        "data": run(lambda batch: None, others),
    }


def peer_loader(config: ClassifierConfig, split: str, *transforms: Any) -> DataLoader[Any]:
    source: Any = config.data.source
    images = ImageFolder(source.root / split, v2.Compose([*transforms, to_images]))
    training = split == "train"
    return DataLoader(images, config.train.batch_size, shuffle=training, drop_last=training)


def to_images(images: Any) -> Tensor:
    """A Pillow image as (3, h, w) uint8, or several as (n, 3, h, w)."""
    if isinstance(images, tuple | list):
        return torch.stack([v2.functional.pil_to_tensor(image) for image in images])
    return v2.functional.pil_to_tensor(images)


def cycle_loader(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def testing_calls(
    ours: Classifier,
    peer: nn.Module,
    config: ClassifierConfig,
    args: argparse.Namespace,
    protocol: str,
) -> dict[str, Call]:
    """Scores of all images by ``protocol``, compared first where both resize alike, by Pillow; then
    ours resizes as it does by default. Its norms are folded, as a loaded network's are. Both sides
    have listed the images before."""
    ours, split = deepcopy(ours).eval(), CLASSIFICATION.read(config, "val")
    fold_norms(ours)
    if args.winograd:
        use_winograd(ours, args.winograd)
    middle = v2.CenterCrop(args.side if protocol == "one_crop" else config.test.resize)
    views = [v2.TenCrop(args.side)] if protocol == "ten_crop" else []
    loader = peer_loader(config, "val", v2.Resize(config.test.resize), middle, *views)
    peer.eval()

    def our_scores(resampling: str) -> Tensor:
        test = config.test.model_copy(update={"protocol": protocol, "resampling": resampling})
        tested = config.model_copy(update={"test": test})
        pipeline = CLASSIFICATION.pipeline([Loaded(ours, tested, tuple(split.classes))])
        with autocast(CPU, args.precision):
            batches = CLASSIFICATION.eval_batches(pipeline.eval(), tested, split, ALONE)
            return torch.stack([each for batch in batches for each in pipeline.predict(batch)])

    @torch.inference_mode()
    def their_scores() -> Tensor:
        scores = []
        with autocast(CPU, args.precision):
            for images, _ in loader:
                logits = peer(normalise(images.flatten(0, -4))).float()
                scores.append(logits.softmax(1).view(len(images), -1, args.classes).mean(1))
        return torch.cat(scores)

    found, wanted = our_scores("pillow"), their_scores()
    difference = float((found - wanted).abs().max() / wanted.max())
    if not difference <= TOLERANCE[args.precision]:
        raise SystemExit(f"{protocol}: the scores disagree: {difference}")
    return {"ours": partial(our_scores, config.test.resampling), "torchvision": their_scores}


def rates(seconds: dict[str, list[float]], images: int) -> dict[str, dict[str, Any]]:
    """Images per second, ratios ours / theirs, and the share of our time that data take."""
    report = {name: spread([images / each for each in seconds[name]]) for name in seconds}
    for name in seconds:
        if name.startswith("torchvision"):
            report[f"ours / {name}"] = spread(ratios(seconds[name], seconds["ours"]))
    if "data" in seconds:
        report["share of data"] = spread(ratios(seconds["data"], seconds["ours"]))
    return report


def show(title: str, report: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}: images per second, and ratios")
    for name, each in report.items():
        numbers = f"median {each['median']:.2f}  {each['min']:.2f} to {each['max']:.2f}"
        print(f"  {name:34s} {numbers}")


if __name__ == "__main__":
    main()
