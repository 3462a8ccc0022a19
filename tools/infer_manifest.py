"""The command ``infer --manifest``: results of a manifest's images, in one file for each shard."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.infer_settings import folder_options, load_model, model_arguments, shard_of
from resdet.tools.progress import inference_progress

if TYPE_CHECKING:
    from resdet.detection.cluster.run import ManifestSummary
    from resdet.detection.inference.folder import FolderSummary


def run_on_manifest(
    args: argparse.Namespace, overrides: list[str], inputs: list[str]
) -> tuple[FolderSummary, int]:
    """What was done, and the exit code: 0, 5 if all images failed, or some with ``--strict``, or
    130 or 143 if interrupted. Raises ConfigError where shards are left for another reason, and
    ConfigError, DataError and WeightsError like `run_manifest`.
    """
    from resdet.detection.cluster.job import ShardJob
    from resdet.detection.cluster.run import Hooks, run_manifest
    from resdet.detection.engine.signals import StopRequest

    _refuse(args, inputs)
    predictor = load_model(args, overrides)
    options = replace(folder_options(args, overrides, predictor), draw=False, resume=True)
    model = model_arguments(args, overrides)
    job = ShardJob(args.manifest, str(args.out), model, options, args.parts)
    say(f"{len(predictor.classes)} classes, on {predictor.device}")
    say(f"testing with: {predictor.testing}")
    with StopRequest() as stop, inference_progress() as report:
        hooks = Hooks(
            lambda: stop.requested, report, lambda line: say(line, file=sys.stderr, flush=True)
        )
        summary = run_manifest(
            job,
            predictor,
            shard=shard_of(args.shard),
            engine=args.engine,
            actors=args.actors,
            hooks=hooks,
        )
    _print(summary, predictor.output.noun)
    if summary.interrupted:
        if not stop.requested:
            left = summary.shards - summary.done
            raise ConfigError(
                f"{summary.out}: {left} of {summary.shards} shards have no part, though nothing "
                "stopped the run; run the same command again"
            )
        say("interrupted; the same command continues")
        return _folder_summary(summary), stop.exit_code
    unusable = summary.failed and (args.strict or summary.failed == summary.images)
    return _folder_summary(summary), 5 if unusable else 0


def _refuse(args: argparse.Namespace, inputs: list[str]) -> None:
    given = {
        "inputs": inputs,
        "--every": args.every is not None,
        "--format": args.format,
        "--page": args.page,
        "--save-crop": args.save_crop,
        "--sort-by-class": args.sort_by_class,
        "--coco-ids": args.coco_ids,
        "--timeout-per-image": args.timeout_per_image is not None,
    }
    if refused := [name for name, value in given.items() if value]:
        raise ConfigError(f"--manifest: takes no {', '.join(refused)}")


def _print(summary: ManifestSummary, noun: str) -> None:
    rate = summary.new / summary.seconds if summary.seconds > 0 else 0.0
    say(
        f"{summary.done} of {summary.shards} shards done, {summary.images} images, "
        f"{summary.found} {noun}, {summary.failed} failed, {rate:.2f} images/s"
    )
    if summary.warned:
        say(f"  {summary.warned} with warnings, such as damage: see `warnings` in the records")
    for name, reason in summary.failures:
        say(f"  failed: {name}: {reason}")
    if summary.failed > len(summary.failures):
        say(f"  … and {summary.failed - len(summary.failures)} more: see failures.jsonl")
    if summary.totals is not None:
        say(f"all {summary.totals['shards']} shards of the manifest are done: summary.json")
    say(f"results: {summary.out}")


def _folder_summary(summary: ManifestSummary) -> FolderSummary:
    from resdet.detection.inference.folder import FolderSummary

    return FolderSummary(
        Path(summary.out),
        summary.images,
        summary.images,
        summary.new,
        summary.found,
        summary.failures,
        summary.seconds,
        summary.interrupted,
        summary.warned,
    )
