"""Count the parameters and the multiply-adds per image of every network.

  resdet networks
  resdet networks --size 112 --classes 40
  resdet networks --json

Multiply-adds are counted for convolutions and linear layers. A bottleneck has its stride in the
first 1x1 convolution (the paper and its released models) or in the 3x3 convolution (torchvision),
which costs more. Shortcut A has no parameters; B and C use projections.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from resdet.detection.printing import table_console
from resdet.tools.arguments import expect_positive

if TYPE_CHECKING:
    from resdet.backbones.base import ClassifierNet
    from resdet.backbones.blocks import Shortcut

HELP = "count parameters and multiply-adds of every network"

#: 10^9 multiply-adds at 224 px, Table 1 of the paper. Its 3.8 for ResNet-50 is 3.86, truncated.
PAPER_GIGA = {
    "ResNet-18 A": 1.8,
    "ResNet-34 A": 3.6,
    "plain-18": 1.8,
    "plain-34": 3.6,
    "ResNet-50 B": 3.8,
    "ResNet-101 B": 7.6,
    "ResNet-152 B": 11.3,
}
#: 10^6 parameters, Table 6 of the paper.
PAPER_MILLION = {
    "CIFAR ResNet-20 A": 0.27,
    "CIFAR ResNet-32 A": 0.46,
    "CIFAR ResNet-44 A": 0.66,
    "CIFAR ResNet-56 A": 0.85,
    "CIFAR ResNet-110 A": 1.7,
}
#: The shortcuts of the paper's Tables 2 to 4, and B for 18 and 34 as in torchvision.
LISTED: dict[int, tuple[Shortcut, ...]] = {
    18: ("A", "B", "none"),
    34: ("A", "B", "C", "none"),
    50: ("B",),
    101: ("B",),
    152: ("B",),
}
LISTED_CIFAR: tuple[Shortcut, ...] = ("A", "none")
#: Counting 1202 layers takes longer than counting all other networks.
DEEPEST_CIFAR = 110


@dataclass(frozen=True)
class NetworkSize:
    """Counts of one network; ``multiply_adds`` is {stride_in: count}."""

    network: str
    size: int
    parameters: int
    multiply_adds: dict[str, int]
    paper_giga_multiply_adds: float | None = None
    paper_million_parameters: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="image side (default: 224; CIFAR: 32)")
    parser.add_argument("--classes", type=int, help="number of classes (default: 1000; CIFAR: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    expect_positive(args, "size", "classes")
    rows = network_sizes(args.size, args.classes)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        _print_table(rows)
    return 0


def network_sizes(size: int | None = None, classes: int | None = None) -> list[NetworkSize]:
    """Sizes of all networks; by default for the paper's images and classes, beside its numbers."""
    from resdet.backbones.analysis import measure
    from resdet.backbones.resnet import CifarResNet, ResNet

    def imagenet(depth: int, shortcut: Shortcut, stride_in: str) -> ClassifierNet:
        net = ResNet(depth, norm="batch", stride_in=stride_in, shortcut=shortcut)
        return net.classifier(classes or 1000)

    def cifar(depth: int, shortcut: Shortcut, stride_in: str) -> ClassifierNet:
        return CifarResNet(depth, shortcut=shortcut).classifier(classes or 10)

    def count(name: str, build: Callable[[str], ClassifierNet], side: int) -> NetworkSize:
        first, second = (measure(partial(build, stride_in), side) for stride_in in ("1x1", "3x3"))
        multiply_adds = {"1x1": first.multiply_adds, "3x3": second.multiply_adds}
        row = NetworkSize(name, side, first.parameters, multiply_adds)
        if size or classes:
            return row
        return replace(
            row,
            paper_giga_multiply_adds=PAPER_GIGA.get(name),
            paper_million_parameters=PAPER_MILLION.get(name),
        )

    rows = [
        count(_name(depth, shortcut), partial(imagenet, depth, shortcut), size or 224)
        for depth, shortcuts in LISTED.items()
        for shortcut in shortcuts
    ]
    return rows + [
        count(f"CIFAR {_name(depth, shortcut)}", partial(cifar, depth, shortcut), size or 32)
        for depth in CifarResNet.depths
        if depth <= DEEPEST_CIFAR
        for shortcut in LISTED_CIFAR
    ]


def _name(depth: int, shortcut: str) -> str:
    return f"plain-{depth}" if shortcut == "none" else f"ResNet-{depth} {shortcut}"


def _print_table(rows: list[NetworkSize]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for heading in ("size", "params\n10^6", "paper", "mult-adds\n10^9"):
        table.add_column(heading, justify="right")
    table.add_column("paper", justify="right")
    table.add_column("stride\nin 3x3", justify="right")
    for row in rows:
        first, second = row.multiply_adds["1x1"], row.multiply_adds["3x3"]
        table.add_row(
            row.network,
            str(row.size),
            f"{row.parameters / 1e6:.2f}",
            _number(row.paper_million_parameters),
            f"{first / 1e9:.2f}",
            _number(row.paper_giga_multiply_adds),
            "" if first == second else f"{second / 1e9:.2f}",
        )
    table_console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("networks"))
