"""Measure the gain and cost of each of the paper's improvements.

The rows are those of Table 9 of the ResNet paper (arXiv:1512.03385), each on top of the ones above:

  baseline      every improvement switched off, whatever the config says
  refinement    regions are scored again from their own regressed boxes
  voting        kept boxes become score-weighted means (part of refinement in the paper)
  context       the network of --context-weights, trained with roi.context=true, else the same
  multi-scale   regions are scored on a pyramid of 1/3 to 5/3 of image.short_side_test
  ensemble      all --weights together

Settings that belong to a row (test.refine.rounds, test.vote.iou, test.pyramid) are taken from the
config or key=value where they are switched on there; all others hold in every row. The paper
suppresses at an IoU of 0.3: test.nms_iou=0.3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say, table_console
from resdet.tools.arguments import (
    add_config_arguments,
    add_device_argument,
    add_weights_argument,
    beside_weights,
    expect_positive,
    expect_writable,
    print_config,
)

if TYPE_CHECKING:
    from resdet.detection.tasks.ablation import Step

HELP = "measure the paper's improvements one by one, with confidence intervals"

NAMES = ("baseline", "refinement", "voting", "context", "multi-scale", "ensemble")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(
        parser, "trained weights; repeat for an ensemble, whose first model is used in all rows"
    )
    parser.add_argument(
        "--context-weights", type=Path, metavar="FILE", help="weights trained with roi.context=true"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="data split")
    parser.add_argument("--steps", metavar="A,B", help=f"only these rows of {', '.join(NAMES)}")
    parser.add_argument("--rungs", dest="steps", help=argparse.SUPPRESS)  # its former name
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for ablation.json and .png")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    from resdet.detection.config.files import load_config, override
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.evaluation.ablation import ablation_table, write_ablation
    from resdet.detection.tasks.ablation import Ablation

    steps = chosen(args.steps)
    expect_positive(args, "limit", "resamples")
    base = load_config(args.cfg) if args.cfg else None
    ablation = Ablation(
        args.weights,
        args.context_weights,
        base,
        args.overrides,
        args.split,
        args.limit,
        args.trust_paths,
    )
    trials = ablation.plan(steps)
    if args.print_config:
        print_config(override(ablation.config, trials[0].overrides), args.cfg)
        return 0
    folder = args.out or beside_weights(args.weights[0], "ablation")
    with process_group(args.device) as group:
        if group.is_main:
            expect_writable(folder)
        about_data = ablation.check(trials)
        if group.is_main:
            for line in about_data:
                say(line)
        if args.dry_run:
            for trial in trials:
                say(f"{trial.name}: {trial.skipped or ' '.join(trial.overrides)}")
            return 0
        rows = ablation.measure(trials, group, resamples=args.resamples)
        if rows is None:
            return 0
        images = len(rows[0].estimates["voc_ap50"].draws.image_ids)
        about = {"split": args.split, "images": images, "resamples": args.resamples}
        table_console().print(ablation_table(rows, images=images, resamples=args.resamples))
        for note in ablation.notes:
            say(f"note: {note}")
        written = write_ablation(rows, folder, about=about)
        say("written: " + ", ".join(str(path) for path in written))
    return 0


def chosen(names: str | None) -> list[Step]:
    """The named steps, in the order of `STEPS`; the baseline is always among them."""
    from resdet.detection.tasks.ablation import STEPS

    wanted = NAMES if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise ConfigError(f"--steps: no {unknown[0]!r}; choose from {', '.join(NAMES)}")
    return [step for step in STEPS if step.name in wanted or step is STEPS[0]]


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("ablate"))
