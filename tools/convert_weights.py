"""Convert pretrained weights to resdet's layout and report what happened to each tensor.

Examples:
  resdet convert-weights R-101.pkl r101_msra.safetensors
  resdet convert-weights model_final_298dad.pkl r101_c4.safetensors --class-names person,bicycle
  resdet convert-weights torchvision:ResNet50_Weights.IMAGENET1K_V1 r50.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError, WeightsError
from resdet.detection.printing import say
from resdet.tools.arguments import expect_new_safetensors, expect_positive

if TYPE_CHECKING:
    from resdet.backbones.weights.convert import Converted

HELP = "convert weights of torchvision, MSRA, detectron2, mmdetection or jwyang"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a path, an https URL or torchvision:NAME")
    parser.add_argument("output", metavar="OUT", type=Path, help="a .safetensors file")
    parser.add_argument("--layout", default="auto", help="layout of IN")
    parser.add_argument("--class-names", help="comma-separated class names in label order")
    parser.add_argument(
        "--pixels", help="pixel normalization if not the layout's: torchvision, msra, caffe"
    )
    parser.add_argument(
        "--stride-in", choices=("1x1", "3x3"), help="stride position if not the layout's"
    )
    parser.add_argument("--ratios", type=int, default=3, help="number of anchor aspect ratios")
    parser.add_argument("--force", action="store_true", help="replace an existing OUT")
    parser.add_argument("--verbose", action="store_true", help="list every tensor")


def run(args: argparse.Namespace) -> int:
    """Convert, write, read back and compare; print a summary."""
    expect_new_safetensors(args.output, force=args.force)
    expect_positive(args, "ratios")
    from resdet.backbones.weights.fetch import resolve
    from resdet.backbones.weights.load import import_weights, write_converted

    converted = import_weights(
        resolve(args.input),
        layout=args.layout,
        ratios=args.ratios,
        pixels=args.pixels,
        stride_in=args.stride_in,
    )
    converted = _with_classes(converted, args.class_names)
    write_converted(converted, args.output)
    _compare(converted, args.output)
    _print_summary(converted, verbose=args.verbose)
    say(f"wrote {args.output}")
    return 0


def _with_classes(converted: Converted, names: str | None) -> Converted:
    """Add class names: distinct, and as many as the network has classes."""
    from dataclasses import replace

    if names is None:
        return converted
    classes = tuple(name.strip() for name in names.split(","))
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated or "" in classes:
        raise ConfigError(f"--class-names: {', '.join(repeated) or 'an empty name'} is not allowed")
    expected = converted.class_count
    if len(classes) != expected:
        raise ConfigError(f"--class-names: {len(classes)} names for {expected} classes")
    return replace(converted, classes=classes)


def _compare(converted: Converted, path: Path) -> None:
    import torch
    from resdet.backbones.weights.load import read_converted

    written = read_converted(path).tensors
    if written.keys() != converted.tensors.keys() or not all(
        torch.equal(written[name], tensor) for name, tensor in converted.tensors.items()
    ):
        raise WeightsError(f"{path}: the file differs from the converted weights")


def _print_summary(converted: Converted, *, verbose: bool) -> None:
    facts = {
        "layout": converted.layout,
        "network": f"{converted.network} {converted.kind}",
        "pixels": converted.pixels,
        "stride in": converted.stride_in or "not stored; set it in the config",
        "max-pool": converted.max_pool,
        "anchors": converted.anchors,
        "tested at": " ".join(f"{name}={value}" for name, value in converted.testing) or None,
        "classes": f"{converted.class_count} {', '.join(converted.classes) or '(no names)'}",
    }
    for key, value in facts.items():
        if value is not None:
            say(f"{key:>10}  {value}")
    say(f"{'mapped':>10}  {len(converted.mapped)} tensors")
    if verbose:
        for name, target in converted.mapped:
            say(f"{'':>12}{name} -> {target}")
    reasons = [reason for _, reason in converted.unused]
    for reason in dict.fromkeys(reasons):
        say(f"{'left out':>10}  {reasons.count(reason)} tensors: {reason}")
    if verbose:
        for name, reason in converted.unused:
            say(f"{'':>12}{name}: {reason}")
    for note in converted.notes:
        say(f"{'note':>10}  {note}")


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    sys.exit(run_tool("convert-weights"))
