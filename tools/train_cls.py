"""Train a classifier from a config, into a new run folder.

resdet train-cls --cfg caltech40_r18.yaml data.root=data
resdet train-cls --cfg imagenet_r50.yaml data.source.root=/data/ILSVRC2012
torchrun --standalone --nproc-per-node 8 --no-python resdet train-cls --cfg imagenet_r50.yaml
"""

from __future__ import annotations

import argparse

from resdet.tools.training import add_training_arguments, run_training

HELP = "train a classifier on ImageNet or folders of classes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, weights="start from this classifier, as in fine-tuning")


def run(args: argparse.Namespace) -> int:
    return run_training(args, "train-cls")


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("train-cls"))
