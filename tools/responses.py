"""Measure and plot the layer responses of classifiers (ResNet paper, section 4.1, Fig. 7).

  resdet responses runs/plain34/weights/best.pt runs/resnet34/weights/best.pt --out responses
  resdet responses best.pt data.root=/data/imagenet --images 5000 --out responses

The response of a layer is its output after BN, before the nonlinearity and the addition. The tool
measures its std over images, channels and positions. It writes responses.json, and responses.png
with the layers in network order and sorted by std.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_device_argument,
    add_trust_argument,
    expect_positive,
    split_overrides,
)
from resdet.tools.curves import short_names

if TYPE_CHECKING:
    from resdet.backbones.analysis import Response

HELP = "measure and plot the layer responses of classifiers"

JSON_FILE, IMAGE_FILE = "responses.json", "responses.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="CKPT | key=value",
        help="classifier checkpoints and config overrides, such as data.root=DIR",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="data split")
    parser.add_argument(
        "--images", type=int, metavar="N", help="use N random images (default: all)"
    )
    add_device_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    overrides, others = split_overrides(args.words)
    if not others:
        raise ConfigError("no checkpoint given")
    expect_positive(args, "images")
    paths = [Path(word) for word in others]
    names = short_names(paths)
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.tasks.checkpoints import read_checkpoint
    from resdet.detection.tasks.classifier import CLASSIFICATION
    from resdet.detection.tasks.classifier_statistics import measure_responses
    from rich.console import Console

    found: dict[str, list[Response]] = {}
    with process_group(args.device) as group:
        if group.world > 1:
            raise ConfigError("responses runs in one process; start it without torchrun")
        for name, path in zip(names, paths, strict=True):
            classifier = read_checkpoint(path, CLASSIFICATION).load(
                group.device, overrides, trust_paths=args.trust_paths
            )
            found[name] = measure_responses(
                classifier,
                group.device,
                part=args.split,
                images=args.images,
                progress=Console(stderr=True),
            )
    _write(found, args.out)
    for name, responses in found.items():
        stds = [response.std for response in responses]
        mean = sum(stds) / len(stds)
        say(f"{name}: {len(stds)} layers, mean {mean:.3f}, {min(stds):.3f} to {max(stds):.3f}")
    say(f"written: {args.out / JSON_FILE}, {args.out / IMAGE_FILE}")
    return 0


def _write(found: dict[str, list[Response]], folder: Path) -> None:
    from resdet.detection.engine.comparison import plot_responses
    from resdet.detection.files import write_file

    content = {name: [asdict(response) for response in found[name]] for name in found}
    stds = {name: [response.std for response in found[name]] for name in found}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / JSON_FILE, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        plot_responses(stds, folder / IMAGE_FILE)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("responses"))
