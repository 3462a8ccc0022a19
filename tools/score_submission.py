"""Score a submission to the ILSVRC localization challenge on the validation set.

  resdet score-submission answers.csv --cfg ilsvrc_loc_r101.yaml data.root=/data

The file is a CSV with the columns ImageId and PredictionString, written by `resdet eval
--submission`: up to five predictions, best first, each a class and a box in 1-based, inclusive
pixel coordinates. The config gives the location of the ground truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.printing import say, table_console
from resdet.tools.arguments import add_config_arguments, config_from_args, print_config

HELP = "score an ILSVRC localization submission"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", type=Path, metavar="FILE", help="CSV file with predictions")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from resdet.datasets.formats.submission import read_submission
    from resdet.detection.config.localizer import LocalizerConfig
    from resdet.detection.config.paths import missing_paths
    from resdet.detection.errors import ConfigError, DataError
    from resdet.detection.evaluation.localization import evaluate_predictions
    from resdet.detection.evaluation.report import print_report
    from resdet.detection.tasks.localizer import LOCALIZATION

    config = config_from_args(args, LocalizerConfig)
    if args.print_config:
        print_config(config, args.cfg)
        return 0
    if missing := missing_paths(config):
        raise ConfigError("\n".join(missing))
    split = LOCALIZATION.read_both(config)["val"]
    classes = split.classes
    predictions = read_submission(args.submission, classes)
    absent = [one.image_id for one in split.records if one.image_id not in predictions]
    if absent:
        raise DataError(
            f"{args.submission}: no row for {len(absent)} images, the first: {absent[0]}; an "
            "image without predictions needs a row with an empty PredictionString"
        )
    if args.dry_run:
        say(f"{len(predictions)} predictions for {len(split.records)} images")
        return 0
    print_report(evaluate_predictions(predictions, split.records, classes), table_console())
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("score-submission"))
