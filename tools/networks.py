"""How large is each network: parameters and multiply-adds of one image, counted.

  resdet networks
  resdet networks --size 112 --classes 40
  resdet networks --json

Multiply-adds are those of convolutions and linear layers. A bottleneck halves the map in its first
1x1 convolution (the paper's numbers, and the models its authors released) or in its 3x3
(torchvision's), which costs more. Shortcuts A have no parameters; B and C are projections.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.backbones.blocks import Shortcut
    from resdet.backbones.resnet import ClassifierNet

HELP = "parameters and multiply-adds of every network"

#: 10^9 multiply-adds at 224, paper, Table 1. Its 3.8 of ResNet-50 is 3.86 cut off.
PAPER_GIGA = {
    "ResNet-18 A": 1.8,
    "ResNet-34 A": 3.6,
    "plain-18": 1.8,
    "plain-34": 3.6,
    "ResNet-50 B": 3.8,
    "ResNet-101 B": 7.6,
    "ResNet-152 B": 11.3,
}
#: 10^6 parameters, paper, Table 6.
PAPER_MILLION = {
    "CIFAR ResNet-20 A": 0.27,
    "CIFAR ResNet-32 A": 0.46,
    "CIFAR ResNet-44 A": 0.66,
    "CIFAR ResNet-56 A": 0.85,
    "CIFAR ResNet-110 A": 1.7,
}
#: The shortcuts in the paper's Tables 2 to 4, and torchvision's 18 and 34, which are B.
LISTED: dict[int, tuple[Shortcut, ...]] = {
    18: ("A", "B", "none"),
    34: ("A", "B", "C", "none"),
    50: ("B",),
    101: ("B",),
    152: ("B",),
}
LISTED_CIFAR: tuple[Shortcut, ...] = ("A", "none")


@dataclass(frozen=True)
class Network:
    """One line of the table; ``build`` takes where bottlenecks, if there are any, halve the map."""

    name: str
    build: Callable[[str], ClassifierNet]
    size: int
    bottlenecks: bool


@dataclass(frozen=True)
class Row:
    """``multiply_adds`` by ``stride_in``; the paper's numbers in its units, where it has them."""

    network: str
    size: int
    parameters: int
    multiply_adds: dict[str, int]
    paper_giga_multiply_adds: float | None = None
    paper_million_parameters: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="side of the image (default: 224; CIFAR 32)")
    parser.add_argument("--classes", type=int, help="outputs (default: 1000; CIFAR 10)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    for name in ("size", "classes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: at least 1")
    as_in_paper = args.size is None and args.classes is None
    rows = [count(network, as_in_paper) for network in networks(args.size, args.classes)]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        _print_table(rows)
    return 0


def networks(size: int | None = None, classes: int | None = None) -> Iterator[Network]:
    """Every network, for the paper's images and classes or for others."""
    from resdet.backbones.resnet import CIFAR_DEPTHS, CifarResNet, ResNet, ResNetSpec

    def large(depth: int, shortcut: Shortcut, stride_in: str) -> ClassifierNet:
        spec = ResNetSpec(depth, norm="batch", stride_in=stride_in, shortcut=shortcut)
        return ResNet(spec, classes=classes or 1000)

    def small(depth: int, shortcut: Shortcut, stride_in: str) -> ClassifierNet:
        return CifarResNet(depth, classes=classes or 10, shortcut=shortcut)

    for depth, shortcuts in LISTED.items():
        for shortcut in shortcuts:
            build = partial(large, depth, shortcut)
            yield Network(_name(depth, shortcut), build, size or 224, depth >= 50)
    for depth in CIFAR_DEPTHS:
        for shortcut in LISTED_CIFAR:
            name = f"CIFAR {_name(depth, shortcut)}"
            yield Network(name, partial(small, depth, shortcut), size or 32, bottlenecks=False)


def count(network: Network, as_in_paper: bool) -> Row:
    """The paper's numbers stand beside only ``as_in_paper``: with its sizes and classes."""
    from resdet.backbones.analysis import measure

    first = second = measure(partial(network.build, "1x1"), network.size)
    if network.bottlenecks:
        second = measure(partial(network.build, "3x3"), network.size)
    return Row(
        network.name,
        network.size,
        first.parameters,
        {"1x1": first.multiply_adds, "3x3": second.multiply_adds},
        PAPER_GIGA.get(network.name) if as_in_paper else None,
        PAPER_MILLION.get(network.name) if as_in_paper else None,
    )


def _name(depth: int, shortcut: str) -> str:
    return f"plain-{depth}" if shortcut == "none" else f"ResNet-{depth} {shortcut}"


def _print_table(rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
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
    Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("networks"))
