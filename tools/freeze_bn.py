"""Which backbone does a trained classifier become? Exact batch norm statistics, then frozen.

  resdet freeze-bn runs/r18/weights/best.pt
  resdet freeze-bn best.pt --images 50000 --out r18_backbone.safetensors
  resdet freeze-bn best.pt data.root=/data/imagenet --exact
  resdet train-det --cfg voc_r18.yaml backbone.weights=r18_backbone.safetensors

Mean and variance of every batch norm are computed over the training set, cropped as in training
(ResNet paper, appendix A), in place of the moving averages of the last few batches. One pass over
the images does it: each layer's statistics are pooled over all of them, while the layers before
it use those of their batch, as in training. --exact lets them use their final statistics, at the
price of a pass for each layer; the larger train.batch_size, the less it changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.backbones.weights.convert import Converted

HELP = "compute a classifier's exact batch norm statistics and freeze it for a detector"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="best.pt of a classifier")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values in place of the checkpoint's, such as data.root=DIR train.batch_size=64",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="only N images of the training set, at random"
    )
    parser.add_argument("--exact", action="store_true", help="layer by layer, a pass for each")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: backbone.safetensors beside CKPT"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    out = args.out or args.checkpoint.with_name("backbone.safetensors")
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: FILE must end in .safetensors")
    if out.exists() and not args.force:
        raise ConfigError(f"{out}: exists; --force replaces it")
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images {args.images}: at least 1")
    from resdet.backbones.weights.load import write_converted
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.tasks.classifier_statistics import freeze
    from resdet.detection.tasks.classifier_weights import load_classifier
    from rich.console import Console

    with process_group(args.device) as group:
        if group.world > 1:
            raise ConfigError("freeze-bn runs as one process, without torchrun")
        classifier = load_classifier(args.checkpoint, group.device, overrides=args.overrides)
        frozen, shift = freeze(
            classifier,
            group.device,
            images=args.images,
            method="layered" if args.exact else "pooled",
            source=str(args.checkpoint),
            progress=Console(stderr=True),
        )
    write_converted(frozen, out)
    print("; ".join(frozen.notes))
    print(
        f"from the moving averages: means moved by {shift.median_mean:.2g} deviations (median; "
        f"at most {shift.largest_mean:.2g}), deviations by {shift.median_deviation:.1%} "
        f"(at most {shift.largest_deviation:.1%})"
    )
    print(f"written: {out}; a detector starts from it with {_settings(frozen, out)}")
    return 0


def _settings(frozen: Converted, path: Path) -> str:
    """What makes a detector's config fit."""
    settings = {
        "weights": path,
        "depth": frozen.depth,
        "width": frozen.width,
        "pixels": frozen.pixels,
        "stride_in": frozen.stride_in,
        "norm": "frozen",
    }
    return " ".join(f"backbone.{key}={value}" for key, value in settings.items() if value)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("freeze-bn"))
