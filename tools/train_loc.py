"""Train a localizer from a config, into a new run folder.

  resdet train-loc --cfg pets_loc_r18.yaml data.root=data network.weights=r18.safetensors
  resdet train-loc --cfg pets_rcnn_r18.yaml data.root=data network.weights=r18.safetensors
      'proposals.weights=[first/best.pt]'

The weights are those of a classifier after `resdet freeze-bn`. Stage one predicts a box for each
class; the optional stage two scores and refines its proposals. The config selects the stage.
"""

from __future__ import annotations

import argparse

from resdet.tools.training import add_training_arguments, run_training

HELP = "train a localizer, stage one or two, on ILSVRC CLS-LOC data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, weights="start from this localizer, as in fine-tuning")


def run(args: argparse.Namespace) -> int:
    return run_training(args, "train-loc")


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("train-loc"))
