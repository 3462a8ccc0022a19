"""Compare detectors, checkpoints and exports: accuracy, speed, memory and size in one table.

resdet benchmark --weights best.pt exported int8
resdet benchmark --weights best.pt int8 --cfg data.yaml --rounds 20

All run on the CPU, each with the settings of testing of its own config, on the validation images
of --cfg or of the first one. AP50 and AP75 are COCO's. Times are medians without the reading of
images; every round gives each one its turn, so that the load of the machine meets all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.printing import say, table_console
from resdet.tools.arguments import add_trust_argument

HELP = "compare checkpoints and exports: accuracy, speed, memory and size"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        required=True,
        action="extend",
        nargs="+",
        type=Path,
        help="checkpoints or exported models; may be repeated",
    )
    parser.add_argument("--cfg", metavar="FILE", help="config whose validation images are used")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions (5)")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    from resdet.detection.evaluation.tables import plain_table, shown
    from resdet.detection.tasks.benchmarking import (
        BATCHES,
        benchmark,
        describe_threads,
    )
    from resdet.detection.tasks.quantizing import GATED

    found = benchmark(args.weights, args.cfg, rounds=args.rounds, trust_paths=args.trust_paths)
    table = plain_table((0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    for heading in (
        *GATED.values(),
        *(f"images/s at {batch}" for batch in BATCHES),
        "load s",
        "memory MB",
        "size MB",
    ):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            str(each.path),
            *(shown(each.metrics[name]) for name in GATED),
            *(f"{each.images_per_second[batch]:.3g}" for batch in BATCHES),
            f"{each.load_seconds:.2f}",
            "-" if each.memory is None else f"{each.memory / 1e6:.0f}",
            f"{each.size / 1e6:.1f}",
        )
    table_console().print(table)
    say(describe_threads())
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("benchmark"))
