"""Plot the curves of several runs in one figure, as in Fig. 4 of the ResNet paper.

  resdet curves runs/plain34 runs/resnet34 --out curves.png
  resdet curves runs/a runs/b --out curves.pdf --smooth 10

Thin lines are training values, bold lines validation values: top-1 and top-5 error and loss of
classifiers, loss and mAP of detectors. The tool also prints the best and the last value of each
run, and the difference of its last values to those of the first run.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import expect_positive

if TYPE_CHECKING:
    from resdet.detection.engine.history import History

HELP = "plot the curves of several runs in one figure"

#: {printed metric: whether lower is better}
SCORES = {
    "val_top1_error": True,
    "val_top5_error": True,
    "voc_ap50": False,
    "coco_ap": False,
    "ilsvrc_ap": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="output file: png, jpg, pdf or svg"
    )
    parser.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="average N training values"
    )


def run(args: argparse.Namespace) -> int:
    from resdet.detection.engine.comparison import plot_runs

    expect_positive(args, "smooth")
    expect_image(args.out)
    histories = read_runs(args.runs)
    try:
        plot_runs(histories, args.out, smooth=args.smooth)
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written: {error.strerror}") from error
    for name, history in histories.items():
        say(f"{name}: {describe(history)}")
    for line in differences(histories):
        say(line)
    say(f"written: {args.out}")
    return 0


def expect_image(path: Path) -> None:
    """Raise ConfigError for a suffix that cannot be plotted."""
    from resdet.detection.engine.comparison import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: expected a suffix of {', '.join(SUFFIXES)}")


def read_runs(folders: Sequence[Path]) -> dict[str, History]:
    """Histories by the shortest unambiguous name of each run.

    Raises:
        ConfigError: not a run folder, an empty history, or the same folder twice.
    """
    from resdet.detection.engine.comparison import PANELS, curves_of
    from resdet.detection.engine.history import METRICS_FILE, read_history

    histories = {}
    for name, folder in zip(short_names(folders), folders, strict=True):
        if not (folder / METRICS_FILE).is_file():
            raise ConfigError(f"{folder}: not a run folder: it has no {METRICS_FILE}")
        history = read_history(folder)
        for line in history.damaged:
            say(f"{folder / METRICS_FILE}:{line}: incomplete line, skipped", file=sys.stderr)
        if not any(curves_of(history, panel) for panel in PANELS):
            raise ConfigError(f"{folder / METRICS_FILE}: nothing to plot")
        histories[name] = history
    return histories


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct suffixes of the paths, equally long.

    Raises:
        ConfigError: a path is given twice.
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
    """``resnet34 vs plain34: val_top1_error -0.0314``, from the last values of both runs."""
    (first, base), *others = ((name, scores(history)) for name, history in histories.items())
    lines = []
    for name, found in others:
        both = [score for score in found if score in base]
        words = [f"{score} {found[score][-1][0] - base[score][-1][0]:+.4f}" for score in both]
        if words:
            lines.append(f"{name} vs {first}, last values: {', '.join(words)}")
    return lines


def scores(history: History) -> dict[str, list[tuple[float, int]]]:
    """{name in SCORES: [(value, step), ...]} without NaN."""
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
