"""The command ``train-det``: a config in, a run folder with a trained detector out."""

from __future__ import annotations

import argparse

from resdet.tools.training import Trainer, add_training_arguments, run_trainer

HELP = "train a detector on VOC or COCO data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, weights="start from this detector instead of a backbone")


def run(args: argparse.Namespace) -> int:
    from resdet.detection.config.detector import DetectorConfig
    from resdet.detection.tasks.detector_training import check_training, train_detector

    return run_trainer(args, Trainer("detection", DetectorConfig, train_detector, check_training))


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("train-det"))
