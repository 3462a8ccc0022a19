"""Fuzz the readers with random files for a given number of seconds.

    python tests/fuzz/run.py 1800 [--only image coco] [--seed 1] [--keep folder]

Each target takes turns in a process of its own, so that a crash of a parser is seen, with the input
that caused it; so is an input that takes longer than `SLOW` seconds. Reported are, for each target,
the number of inputs, how many of them the reader took as valid, and the findings: what came out
beside the documented errors. Exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

#: Seconds of one turn, and seconds that one small input may take.
TURN, SLOW = 20.0, 10.0
#: Bytes a reader may hold: a few bytes of input must not ask for more.
MEMORY = 4 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--only", nargs="+", help="names of targets (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # target and folder: the child
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(take_turn(args.turn[0], Path(args.turn[1]), args.seed, args.seconds)))
        return 0
    from resdet.tests.fuzz.targets import TARGETS

    unknown = set(args.only or ()) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    totals = run(args.only or list(TARGETS), args.seconds, args.seed, args.keep)
    print_totals(totals)
    return int(any(total["findings"] for total in totals.values()))


def run(
    names: list[str], seconds: float, seed: int, keep: Path | None
) -> dict[str, dict[str, Any]]:
    """Turns of all targets, one after another, until the time is over; sums by target."""
    totals: dict[str, dict[str, Any]] = {
        name: {"inputs": 0, "taken": 0, "seconds": 0.0, "mb": 0.0, "findings": {}} for name in names
    }
    end, number = time.monotonic() + seconds, seed * 1_000_000
    while (left := end - time.monotonic()) > 0:
        for name in names:
            turn = min(TURN, max(1.0, left / len(names)))
            result = in_child(name, number, turn, keep)
            number += 1
            total = totals[name]
            for key in ("inputs", "taken", "seconds"):
                total[key] += result[key]
            total["mb"] = max(total["mb"], result["mb"])
            for place, text in result["findings"].items():
                if place not in total["findings"]:
                    print(f"FINDING {name} (seed {number - 1}): {place}: {text}", flush=True)
                total["findings"][place] = text
        done = sum(total["inputs"] for total in totals.values())
        print(f"{seconds - left:.0f} s: {done} inputs", flush=True)
    return totals


def in_child(name: str, seed: int, seconds: float, keep: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = [str(seconds), "--seed", str(seed), "--turn", name, folder]
        command = [sys.executable, str(Path(__file__)), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = " | ".join(done.stderr.splitlines()[-12:])
            result = {"inputs": 0, "taken": 0, "seconds": seconds, "mb": 0.0}
            result["findings"] = {f"process ended with {done.returncode}": last}
            _keep(keep, name, Path(folder, "current").read_bytes())
        for path in Path(folder).glob("finding-*"):
            _keep(keep, name, path.read_bytes())
        return result


def _keep(folder: Path | None, name: str, data: bytes) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


def take_turn(name: str, folder: Path, seed: int, seconds: float) -> dict[str, Any]:
    """The child: one target for some seconds."""
    import torch
    from PIL import Image
    from resdet.tests.fuzz.targets import TARGETS, attempt, example, prepare

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    Image.init()
    target, random = TARGETS[name], Random(seed)  # noqa: S311  to be repeated by its seed
    seeds = target.seeds()
    prepare(folder)
    findings: dict[str, str] = {}
    inputs = taken = 0
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        data = example(target, seeds, random)
        (folder / "current").write_bytes(data)
        faulthandler.dump_traceback_later(SLOW, exit=True)
        inputs += 1
        try:
            taken += attempt(target, folder, data)
        except Exception as error:
            place = _place(error)
            if place not in findings:
                (folder / f"finding-{len(findings)}").write_bytes(data)
            findings[place] = f"{type(error).__name__}: {error}"[:400]
        finally:
            faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = time.monotonic() - start
    return {
        "inputs": inputs,
        "taken": taken,
        "seconds": spent,
        "mb": peak,
        "findings": findings,
    }


def _place(error: Exception) -> str:
    """Identity of a finding: the error type and the last line of our code in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename and "/lib/" not in f.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def print_totals(totals: dict[str, dict[str, Any]]) -> None:
    print("target        inputs    valid   per s  peak MB  findings")
    for name, total in totals.items():
        rate = total["inputs"] / max(total["seconds"], 1e-9)
        print(
            f"{name:12s} {total['inputs']:8d} {total['taken']:8d} {rate:7.0f} {total['mb']:8.0f}"
            f"  {len(total['findings'])}"
        )
    inputs = sum(total["inputs"] for total in totals.values())
    findings = sum(len(total["findings"]) for total in totals.values())
    print(f"all          {inputs:8d} inputs, {findings} findings")


if __name__ == "__main__":
    raise SystemExit(main())
