"""Train a detector from a config, into a new run folder."""

from __future__ import annotations

import argparse

from resdet.tools.training import add_training_arguments, run_training

HELP = "train a detector on VOC, COCO or YOLO data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, weights="start from this detector instead of a backbone")


def run(args: argparse.Namespace) -> int:
    return run_training(args, "train-det")


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("train-det"))
