"""Correctness of the toolkit on a GPU, and its speed beside torchvision's.

    python benchmarks/gpu.py [--golden DIR] [--json gpu.json] [--only checks|speed|PART ...]
        [--minutes 8]

Each row is printed, and written to the JSON file, as soon as it is known, so that a stop loses
nothing. The exit code is 1 if a check is out of its limits. It needs no network; the numbers of
detectron2 are compared if ``--golden`` has them. On a CPU, networks and images are small.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

# Before torch starts cuBLAS: deterministic runs are compared with others in this process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from gpu_checks import CHECKS as USUAL_CHECKS
from gpu_compiled import COMPILED_CHECKS, COMPILED_SPEED
from gpu_rows import Part, Report, Setup
from gpu_speed import SPEED as USUAL_SPEED

CHECKS = {**USUAL_CHECKS, **COMPILED_CHECKS}
SPEED = {**USUAL_SPEED, **COMPILED_SPEED}
#: The parts in order: the checks first, as speed says nothing about wrong results.
PARTS: dict[str, Part] = {**CHECKS, **SPEED}
GROUPS = {"checks": tuple(CHECKS), "speed": tuple(SPEED)}
GOLDEN = Path(__file__).resolve().parent.parent.parent / "shared" / "golden"


def main() -> int:
    args = parse_arguments()
    if args.device == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    golden = args.golden or (GOLDEN if GOLDEN.is_dir() else None)
    chosen = {part for name in args.only for part in GROUPS.get(name, (name,))}
    parts = {name: part for name, part in PARTS.items() if not chosen or name in chosen}
    with TemporaryDirectory() as scratch:
        setup = Setup(args.device, args.device == "cpu", golden, Path(scratch))
        good = Report(args.json, args).run(parts, setup, 60 * args.minutes)
    print(f"{'all checks hold' if good else 'CHECKS FAILED'}; written: {args.json}")
    return 0 if good else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=usual)
    parser.add_argument("--golden", type=Path, metavar="DIR", help="the numbers of detectron2")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE")
    parser.add_argument("--minutes", type=float, default=8.0, help="after them no row is begun")
    names = (*GROUPS, *PARTS)
    parser.add_argument("--only", nargs="+", default=[], choices=names, help="only these parts")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
