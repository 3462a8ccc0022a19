"""How did several runs go, beside each other? The paper's Fig. 4: training thin, validation bold.

  resdet curves runs/plain34 runs/resnet34 --out curves.png
  resdet curves runs/a runs/b --out curves.pdf --smooth 10

Classifiers show top-1 and top-5 error and loss, detectors loss and mAP: whatever the runs have
measured. The best and the last value of each run are printed, and by how much the last ones differ
from those of the first run named.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.detection.engine.history import History

HELP = "plot the curves of several runs together"

#: What is printed, and whether less of it is better.
SCORES = {"val_top1_error": True, "val_top5_error": True, "voc_ap50": False, "coco_ap": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a training")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the image: png, jpg, pdf or svg"
    )
    parser.add_argument(
        "--smooth",
        type=int,
        default=1,
        metavar="N",
        help="draw training as means of N logged values (default: as logged)",
    )


def run(args: argparse.Namespace) -> int:
    from resdet.detection.engine.comparison import plot_runs

    if args.smooth < 1:
        raise ConfigError(f"--smooth {args.smooth}: at least 1")
    expect_image(args.out)
    histories = read_runs(args.runs)
    try:
        plot_runs(histories, args.out, smooth=args.smooth)
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written: {error.strerror}") from error
    for name, history in histories.items():
        print(f"{name}: {describe(history)}")
    for line in differences(histories):
        print(line)
    print(f"written: {args.out}")
    return 0


def expect_image(path: Path) -> None:
    """Raises ConfigError where the suffix is none that can be drawn."""
    from resdet.detection.engine.comparison import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: an image ends in one of {', '.join(SUFFIXES)}")


def read_runs(folders: Sequence[Path]) -> dict[str, History]:
    """What each run has measured, by the shortest name that tells them apart.

    Raises:
        ConfigError: no run folder, nothing measured, or the same folder twice.
    """
    from resdet.detection.engine.comparison import PANELS, curves_of
    from resdet.detection.engine.history import METRICS_FILE, read_history

    histories = {}
    for name, folder in zip(short_names(folders), folders, strict=True):
        if not (folder / METRICS_FILE).is_file():
            raise ConfigError(f"{folder}: no folder of a run: it has no {METRICS_FILE}")
        history = read_history(folder)
        for line in history.damaged:
            print(f"{folder / METRICS_FILE}:{line}: not a whole line, left out", file=sys.stderr)
        if not any(curves_of(history, panel) for panel in PANELS):
            raise ConfigError(f"{folder / METRICS_FILE}: nothing that could be plotted")
        histories[name] = history
    return histories


def short_names(paths: Sequence[Path]) -> list[str]:
    """As many of the last parts of the paths as make them different.

    Raises:
        ConfigError: a path is there twice.
    """
    whole = [path.resolve() for path in paths]
    twice = next((path for path in whole if whole.count(path) > 1), None)
    if twice:
        raise ConfigError(f"{twice}: given twice")
    count = 1
    while len({path.parts[-count:] for path in whole}) < len(whole):
        count += 1
    return [str(Path(*path.parts[-count:])) for path in whole]


def describe(history: History) -> str:
    """``6000 steps; val_top1_error best 0.41 at 5500, last 0.42``."""
    parts = [f"{max(entry.step for entry in history.entries)} steps"]
    for name, found in scores(history).items():
        value, step = (min if SCORES[name] else max)(found, key=lambda pair: pair[0])
        parts.append(f"{name} best {value:.4f} at {step}, last {found[-1][0]:.4f}")
    return "; ".join(parts)


def differences(histories: Mapping[str, History]) -> list[str]:
    """``resnet34 beside plain34: val_top1_error -0.0314``, of the last values both have."""
    (first, base), *others = ((name, scores(history)) for name, history in histories.items())
    lines = []
    for name, found in others:
        both = [score for score in found if score in base]
        words = [f"{score} {found[score][-1][0] - base[score][-1][0]:+.4f}" for score in both]
        if words:
            lines.append(f"{name} beside {first}, last values: {', '.join(words)}")
    return lines


def scores(history: History) -> dict[str, list[tuple[float, int]]]:
    """What was measured, with the steps, by the names in SCORES; without NaN."""
    found = {
        name: [
            (entry.values[name], entry.step)
            for entry in history.of("eval")
            if name in entry.values and not math.isnan(entry.values[name])
        ]
        for name in SCORES
    }
    return {name: values for name, values in found.items() if values}


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("curves"))
