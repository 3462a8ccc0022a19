"""Detectors trained from scratch on few images for the same minutes: ours and what one might pick.

    python benchmarks/small_data.py data/bccd --cfg bccd_r18.yaml --split test --out DIR
        [--minutes 5 10 20] [--seeds 0 1 2] [--sides ours torchvision yolov8n yolo11n]
        [--ultralytics PYTHON]

Every side is trained on the images of ``train``, one side at a time on the same cores; its minutes
are those from the start of its process to its weights, and what it took is in the table. Ours runs
the config with as many steps as fit (two short runs before tell the time of a step), torchvision's
is `small_data_torchvision.py`, and ultralytics' is `small_data_ultralytics.py` (AGPL: in an
environment of its own, whose Python is ``--ultralytics``). The detections of all sides on
``--split`` are scored by `resdet eval --predictions`. Each row is printed and kept as soon as it is
known; a repeated command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from measuring import describe_machine
from resdet.detection.config.files import load_config

SIDES = ("ours", "torchvision", "yolov8n", "yolo11n")
HERE = Path(__file__).resolve().parent
#: Steps of the two runs that tell the time of a step.
PROBES = (10, 30)


def main() -> None:
    args = parse_arguments()
    print(json.dumps(describe_machine() | vars(args), default=str), flush=True)
    for form in ("coco", "yolo"):
        if not (args.out / form).exists():
            tool("convert-data", args.data, "--to", form, "--allow-loss", "--out", args.out / form)
    results = args.out / "results.json"
    rows = json.loads(results.read_text()) if results.exists() else []
    known = {(row["side"], row["minutes"], row["seed"]) for row in rows}
    print("| side | minutes | seed | took, s | mAP@0.5 | COCO AP |\n|---|---|---|---|---|---|")
    for seed in args.seeds:
        for minutes in args.minutes:
            for side in args.sides:
                if (side, minutes, seed) in known:
                    continue
                rows.append(measure(side, minutes, seed, args))
                results.write_text(json.dumps(rows, indent=1) + "\n")
                print(line(rows[-1]), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a VOC folder with the split train")
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=(5, 10, 20))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--ultralytics", type=Path, metavar="PYTHON")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help="of the config")
    args = parser.parse_args()
    if args.ultralytics is None and any(side.startswith("yolo") for side in args.sides):
        parser.error("yolov8n and yolo11n need --ultralytics PYTHON; --sides leaves them out")
    args.data, args.out = args.data.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def measure(side: str, minutes: float, seed: int, args: argparse.Namespace) -> dict[str, object]:
    folder = args.out / f"{side}_{minutes:g}_{seed}"
    folder.mkdir(exist_ok=True)
    train: Callable[..., float] = train_ours if side == "ours" else train_peer
    seconds = train(side, minutes, seed, folder, args)
    found = folder / "found.json"
    truth = args.out / "coco" / "annotations" / f"instances_{args.split}.json"
    tool(
        *("eval", "--predictions", found, "--annotations", truth),
        *("--resamples", 0, "--out", folder / "eval"),
    )
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())["metrics"]
    return {
        "side": side,
        "minutes": minutes,
        "seed": seed,
        "seconds": seconds,
        "map50": metrics["voc_ap50"],
        "ap": metrics["coco_ap"],
    }


def train_ours(
    side: str, minutes: float, seed: int, folder: Path, args: argparse.Namespace
) -> float:
    """Seconds of the training, whose detections are in ``found.json``."""
    split = [{"format": "voc", "root": str(args.data), "split": args.split}]
    settings = [f"data.root={args.data.parent}", f"train.seed={seed}"]
    settings += [f"data.train.0.root={args.data}", f"data.val={json.dumps(split)}"]

    def run(steps: int, out: Path) -> float:
        start = time.perf_counter()
        warmup = f"train.warmup_iterations={min(100, steps // 4)}"
        every = f"train.eval_every={steps}"
        counts = [f"train.iterations={steps}", warmup, every, "train.checkpoint_every=100000"]
        tool("train-det", "--cfg", args.cfg, "--out", out, *settings, *counts, *args.set)
        return time.perf_counter() - start

    few, more = (run(steps, folder / f"probe_{steps}") for steps in PROBES)
    step = (more - few) / (PROBES[1] - PROBES[0])
    # What is left of the shorter run: the start and one evaluation, which the whole run has too.
    steps = max(PROBES[1], int((minutes * 60 - (few - PROBES[0] * step)) / step))
    seconds = run(steps, folder / "run")
    weights = folder / "run" / "weights" / "last.pt"
    tool(
        *("eval", "--weights", weights, "--trust-paths", "--save-json", "--resamples", 0),
        *("--out", folder / "own"),
    )
    (folder / "found.json").write_bytes((folder / "own" / "detections.json").read_bytes())
    return seconds


def train_peer(
    side: str, minutes: float, seed: int, folder: Path, args: argparse.Namespace
) -> float:
    shorter = load_config(args.cfg, args.set).image.short_side_test
    if side == "torchvision":
        words = [sys.executable, HERE / "small_data_torchvision.py", args.out / "coco"]
    else:
        words = [args.ultralytics, HERE / "small_data_ultralytics.py", args.out, "--model", side]
    words += ["--split", args.split, "--minutes", minutes, "--seed", seed]
    words += ["--size", shorter, "--out", folder]
    run_command(words, folder / "log.txt")
    return json.loads((folder / "seconds.json").read_text())


def tool(*words: object) -> None:
    """A command of resdet, its output beside the results."""
    module = "from resdet.tools.cli import main; raise SystemExit(main())"
    run_command([sys.executable, "-c", module, *words], None)


def run_command(words: Sequence[object], log: Path | None) -> None:
    done = subprocess.run(  # noqa: S603  the scripts beside this one
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    if log:
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )


def line(row: dict[str, object]) -> str:
    cells = [row["side"], row["minutes"], row["seed"], f"{row['seconds']:.0f}"]
    return "| " + " | ".join(map(str, [*cells, f"{row['map50']:.3f}", f"{row['ap']:.3f}"])) + " |"


if __name__ == "__main__":
    main()
