"""Turn a trained classifier into a frozen detector backbone with exact BN statistics.

  resdet freeze-bn runs/r18/weights/best.pt
  resdet freeze-bn best.pt --images 50000 --out r18_backbone.safetensors
  resdet freeze-bn best.pt data.root=/data/imagenet --exact
  resdet train-det --cfg mine.yaml backbone.depth=18 backbone.weights=r18_backbone.safetensors

The mean and variance of every BN layer are recomputed over the training set with the training crops
(ResNet paper, appendix A) and replace the moving averages. By default this takes one pass: each
layer's statistics are pooled over all images, while earlier layers normalize with batch statistics,
as in training. With --exact earlier layers use their final statistics, which takes one pass per
layer; the difference shrinks as train.batch_size grows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_device_argument,
    add_trust_argument,
    expect_new_safetensors,
    expect_positive,
)

if TYPE_CHECKING:
    from resdet.backbones.weights.convert import Converted
    from resdet.detection.config.classifier import NetworkConfig

HELP = "recompute a classifier's BN statistics exactly and freeze it as a backbone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="classifier checkpoint, such as best.pt"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override config values, for example data.root=DIR train.batch_size=64",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="use N random training images (default: all)"
    )
    parser.add_argument("--exact", action="store_true", help="one pass per layer, see above")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output (default: backbone.safetensors beside CKPT)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output file")
    add_device_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    out = args.out or args.checkpoint.with_name("backbone.safetensors")
    expect_new_safetensors(out, force=args.force)
    expect_positive(args, "images")
    from resdet.backbones.weights.load import write_converted
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.tasks.checkpoints import read_checkpoint
    from resdet.detection.tasks.classifier import CLASSIFICATION
    from resdet.detection.tasks.classifier_statistics import freeze
    from rich.console import Console

    with process_group(args.device) as group:
        if group.world > 1:
            raise ConfigError("freeze-bn runs in one process; start it without torchrun")
        classifier = read_checkpoint(args.checkpoint, CLASSIFICATION).load(
            group.device, args.overrides, trust_paths=args.trust_paths
        )
        frozen, shift = freeze(
            classifier,
            group.device,
            images=args.images,
            method="layered" if args.exact else "pooled",
            source=str(args.checkpoint),
            progress=Console(stderr=True),
        )
    write_converted(frozen, out)
    say("; ".join(frozen.notes))
    say(
        f"change from the moving averages: means by {shift.median_mean:.2g} std (median; "
        f"max {shift.largest_mean:.2g}), std by {shift.median_std:.1%} "
        f"(max {shift.largest_std:.1%})"
    )
    say(
        f"written: {out}; use it in a detector with "
        f"{_settings(frozen, classifier.config.network, out)}"
    )
    return 0


def _settings(frozen: Converted, network: NetworkConfig, path: Path) -> str:
    """The config overrides with which a detector loads the file."""
    settings = {
        "weights": path,
        "family": network.family,
        "depth": network.depth,
        "width": network.width,
        "pixels": frozen.pixels,
        "stride_in": frozen.stride_in,
        "norm": "frozen",
    }
    return " ".join(f"backbone.{key}={value}" for key, value in settings.items() if value)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("freeze-bn"))
