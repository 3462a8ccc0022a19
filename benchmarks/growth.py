"""How the time of inference grows with size, proposals, batch and threads, beside torchvision.

    python benchmarks/growth.py [--side 300 600 1000 2000] [--only side] [--plot growth.png]

One quantity varies at a time ``--around`` 600 x 1000, 300 proposals, one image and one thread. Both
sides run in turns in one process. The share of the peak is that of our operations a second in the
processor's best rate with as many threads (`resdet doctor --speed`). Both sides keep freed memory;
with ``--apart``, torchvision's also runs in a process of its own that does not (`apart.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from apart import Apart
from detector import compare_times
from measuring import CLOCKS, describe_machine, make_parser, write_json
from resdet.backbones.speed import measure_layers
from resdet.detection.processor import keep_memory
from sides import SIDES, make_side
from torch.utils.flop_counter import FlopCounterMode

#: What varies, and its values.
SERIES = {
    "side": (300, 600, 1000, 2000),
    "proposals": (100, 300, 1000, 2000),
    "batch": (1, 2, 4, 8),
    "threads": (1, 2),
}
#: Seconds of the sides, each followed by its ratio to ours.
MEASURED = (
    "ours",
    "torchvision",
    "ratio",
    "torchvision, memory returned",
    "ratio, memory returned",
)


@dataclass(frozen=True)
class Point:
    """``side`` is the shorter one; the longer one is 5 / 3 of it."""

    side: int
    proposals: int
    batch: int
    threads: int

    @property
    def size(self) -> tuple[int, int]:
        return self.side, round(self.side * 5 / 3)


def main() -> None:
    args = parse_arguments()
    keep_memory()
    print(describe_machine())
    columns = ["varied", "size", *list(SERIES)[1:], "ours, s", "torchvision, s", "ratio"]
    columns += ["memory returned, s", "ratio"] if args.apart else []
    print("| " + " | ".join([*columns, "peak"]) + " |")
    print("|---" * (len(columns) + 1) + "|")
    rows, peaks = [], {}
    for varied, point in points(args):
        torch.set_num_threads(point.threads)
        if point.threads not in peaks:
            peaks[point.threads] = measure_layers()[1]
        rows.append(measure(varied, point, args, peaks[point.threads]))
        print(line(rows[-1]), flush=True)
    if args.plot:
        plot(rows, args.plot)
    write_json({"rows": rows}, args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, device="cpu", depth=101, classes=20, repeats=3, warmup=1)
    parser.add_argument(
        "--around", type=int, nargs=4, metavar=tuple(SERIES), default=(600, 300, 1, 1)
    )
    for name, values in SERIES.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    parser.add_argument("--only", nargs="+", choices=tuple(SERIES))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
    parser.add_argument(
        "--apart", action="store_true", help="add torchvision's with memory as in a new process"
    )
    parser.add_argument("--plot", type=Path, help="draw the table into this image")
    return parser.parse_args()


def points(args: argparse.Namespace) -> Iterator[tuple[str, Point]]:
    """The name of what varies, and the point."""
    for name in args.only or SERIES:
        for value in getattr(args, name):
            yield name, replace(Point(*args.around), **{name: value})


def measure(varied: str, point: Point, args: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Seconds for the whole batch, medians; ``share`` is that of the peak."""
    settings = {"size": point.size, "rois": 128, "peer_layout": "contiguous"}
    given = argparse.Namespace(**{**vars(args), **settings, **asdict(point)}, peer_precision=None)
    sides = [make_side(name, given) for name in SIDES]
    with ExitStack() as stack:
        apart = [stack.enter_context(Apart(given))] if args.apart else []
        times = compare_times({side.name: side.detect for side in [*sides, *apart]}, given)
    with FlopCounterMode(display=False) as counter:
        sides[0].detect()
    seconds = {name: times[name]["median"] for name in times}
    share = counter.get_total_flops() / seconds["ours"] / peak
    if args.clock == "cpu":
        share *= point.threads
    return {"varied": varied, **asdict(point), **seconds, "share": share}


def line(row: dict[str, Any]) -> str:
    point = Point(*(row[name] for name in SERIES))
    cells = [
        row["varied"],
        "{} x {}".format(*point.size),
        row["proposals"],
        row["batch"],
        row["threads"],
    ]
    cells += [f"{row[name]:.2f}" for name in MEASURED if name in row]
    return "| " + " | ".join(map(str, [*cells, f"{row['share']:.0%}"])) + " |"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for each quantity that varies."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure((4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        chosen = [row for row in rows if row["varied"] == name]
        for side in MEASURED:
            if side not in chosen[0] or side.startswith("ratio"):
                continue
            axes.plot(
                [row[name] for row in chosen], [row[side] for row in chosen], "o-", label=side
            )
        axes.set(xlabel=name, ylabel="seconds", ylim=(0, None))
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
