"""Upload a trained network to the Hugging Face Hub, with a model card.

resdet push --weights runs/detector/weights/best.pt owner/name --license cc-by-4.0
resdet push --weights best.pt owner/name --license mit --report runs/detector/eval --private
resdet push --weights exported owner/name-onnx --license mit
resdet infer --weights hf://owner/name street.jpg

The file of a checkpoint has the weights, classes and settings, not the optimizer and no path of
this machine; of an exported model the files that run it are uploaded. The card has the metrics of
--report, a folder that resdet eval wrote for these very weights; a card that is there is kept. The
token is that of HF_TOKEN, or of hf auth login.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.printing import say

HELP = "upload a trained network to the Hugging Face Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, help="a checkpoint, or an exported model"
    )
    parser.add_argument("repo", metavar="OWNER/NAME", help="the repository, made if there is none")
    parser.add_argument(
        "--license", required=True, metavar="NAME", help="of the weights, as the Hub names it"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="folder of resdet eval with the metrics"
    )
    parser.add_argument(
        "--private", action="store_true", help="make a private repository, or expect one"
    )
    parser.add_argument(
        "--replace-card", action="store_true", help="write a new README.md over an existing one"
    )


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError and WeightsError as `push` does."""
    from resdet.detection.tasks.hub import push

    address, notes = push(
        args.weights,
        args.repo,
        licence=args.license,
        report=args.report,
        private=args.private,
        replace_card=args.replace_card,
    )
    for note in notes:
        say(f"note: {note}")
    say(f"uploaded: {address}")
    say(f"next: resdet infer --weights hf://{args.repo} IMAGE")
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("push"))
