"""Fuzz the readers with random files for a given number of seconds.

    python tests/fuzz/run.py 1800 [--only image coco] [--seed 1] [--keep folder] [--grow]

Each target takes turns in a process of its own, so that a crash of a parser is seen, with the input
that caused it; so is an input that takes more than `SLOW` seconds of processor time. Reported are,
for each target, the number of inputs, how many of them the reader took as valid, and the findings:
what came out beside the documented errors. Exit code 1 where there are any. ``--grow`` adds small
inputs that execute lines of the toolkit that no input of the corpus does, and takes longer for
each.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads do not survive the fork

import torch
from PIL import Image
from resdet.tests.fuzz import corpus
from resdet.tests.fuzz.targets import TARGETS, attempt, example, prepare

#: Processor seconds of one turn, and those that one small input may take.
TURN, SLOW = 5.0, 10.0
#: Seconds without an end of an input that waits for something.
HANGS = 300.0
#: Where the inputs are written: in memory, if there is such a place.
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  not a fixed name in it
#: Bytes a reader may hold: a few bytes of input must not ask for more.
MEMORY = 4 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--only", nargs="+", help="names of targets (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--grow", action="store_true", help="add to tests/fuzz/corpus")
    args = parser.parse_args()
    unknown = set(args.only or ()) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    Image.init()
    names = args.only or list(TARGETS)
    if args.grow:
        for name in names:
            print(f"{name}: {corpus.grow(name, args.seconds / len(names), args.seed)} new inputs")
        return 0
    totals = run(names, args.seconds, args.seed, args.keep)
    print_totals(totals)
    return int(any(total["findings"] for total in totals.values()))


def run(
    names: list[str], seconds: float, seed: int, keep: Path | None
) -> dict[str, dict[str, Any]]:
    """Turns of all targets, one after another, until the time is over; sums by target."""
    totals: dict[str, dict[str, Any]] = {
        name: {"inputs": 0, "taken": 0, "seconds": 0.0, "mb": 0.0, "findings": {}} for name in names
    }
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        prepared = Path(folder)
        prepare(prepared)
        for name in names:
            TARGETS[name].seeds()  # most keep what they make, for the children
        end, number = time.monotonic() + seconds, seed * 1_000_000
        while (left := end - time.monotonic()) > 0:
            for name in names:
                turn = min(TURN, max(1.0, left / len(names)))
                result = in_child(name, number, turn, prepared, keep)
                _add(totals[name], result, f"{name} (seed {number})")
                number += 1
            done = sum(total["inputs"] for total in totals.values())
            print(f"{seconds - left:.0f} s: {done} inputs", flush=True)
    return totals


def _add(total: dict[str, Any], result: dict[str, Any], turn: str) -> None:
    for key in ("inputs", "taken", "seconds"):
        total[key] += result[key]
    total["mb"] = max(total["mb"], result["mb"])
    for place, text in result["findings"].items():
        if place not in total["findings"]:
            print(f"FINDING {turn}: {place}: {text}", flush=True)
        total["findings"][place] = text


def in_child(
    name: str, seed: int, seconds: float, prepared: Path, keep: Path | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        place = Path(folder)
        shutil.copytree(prepared, place, dirs_exist_ok=True)
        pid = os.fork()
        if pid == 0:
            _become_child(name, seed, seconds, place)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            result: dict[str, Any] = json.loads((place / "result").read_text())
        except (OSError, ValueError):
            last = " | ".join((place / "stderr").read_text().splitlines()[-12:])
            result = {"inputs": 0, "taken": 0, "seconds": seconds, "mb": 0.0}
            result["findings"] = {f"process ended with {code}": last}
            _keep(keep, name, (place / TARGETS[name].file).read_bytes())
        for path in place.glob("finding-*"):
            _keep(keep, name, path.read_bytes())
        return result


def _become_child(name: str, seed: int, seconds: float, folder: Path) -> None:
    code = 1
    try:
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
        result = take_turn(name, folder, seed, seconds)
        (folder / "result").write_text(json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _keep(folder: Path | None, name: str, data: bytes) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


def take_turn(name: str, folder: Path, seed: int, seconds: float) -> dict[str, Any]:
    """The child: one target for some processor seconds."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    faulthandler.register(signal.SIGPROF, chain=True)  # says where, then the process ends
    target, random = TARGETS[name], Random(seed)  # noqa: S311  to be repeated by its seed
    seeds = [*target.seeds(), *corpus.kept(name)]
    findings: dict[str, str] = {}
    inputs = taken = 0
    start = time.process_time()
    while time.process_time() - start < seconds:
        data = example(target, seeds, random)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        inputs += 1
        try:
            taken += attempt(target, folder, data)
        except Exception as error:
            place = _place(error)
            if place not in findings:
                (folder / f"finding-{len(findings)}").write_bytes(data)
            findings[place] = f"{type(error).__name__}: {error}"[:400]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = time.process_time() - start
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
