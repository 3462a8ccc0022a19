"""Evaluate a detector, a classifier or a localizer on a data set.

resdet eval --weights runs/detector/weights/best.pt test.nms_iou=0.4
resdet eval --weights classifier.pt test.protocol=ten_crop
resdet eval --weights one.pt --weights other.pt test.protocol=multi_scale test.flip=true
resdet eval --weights detector.pt --split test --save-json --save-voc
resdet eval --weights detector.pt --classes cat,dog --sizes 16,64 --conf 0.5
resdet eval --predictions results.json --annotations instances_val2017.json
resdet eval --manifest m --predictions found --annotations objects.parquet
resdet eval --weights localizer.pt 'test.classifiers=[classifier.pt]' --submission answers.csv
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError, first_few
from resdet.detection.printing import say, table_console
from resdet.tools.arguments import (
    add_compile_argument,
    add_config_arguments,
    add_device_argument,
    add_font_argument,
    add_weights_argument,
    beside_weights,
    expect_writable,
    numbers,
    place,
    print_config,
)
from resdet.tools.eval_files import (
    analysis_options,
    chosen_classes,
    expect_something_to_do,
    limited_to,
    page_command,
    score_predictions,
    write_predictions,
)

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.detection.evaluation.report import Evaluation
    from resdet.detection.tasks.base import Loaded, Task

HELP = "score a detector (mAP, COCO AP), a classifier or a localizer (top-1 and top-5 error)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser, required=False)
    parser.add_argument(
        "--predictions",
        type=place,
        metavar="PATH",
        help="in place of weights, detections of any tool: COCO results (.json), the .jsonl of "
        "infer, or a folder of VOC's files; with --manifest the --out of its infer",
    )
    parser.add_argument(
        "--annotations",
        type=place,
        metavar="PATH",
        help="for --predictions: a COCO file, or a VOC folder with the image set --split; with "
        "--manifest also Parquet or CSV",
    )
    parser.add_argument(
        "--manifest",
        metavar="DIR|URL",
        help="the images that --predictions are of, in any number: scored in shards",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--split",
        default="val",
        metavar="NAME",
        help="val, train, test, or another split in the folder of val's data (default: val)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report")
    add_font_argument(parser)
    add_device_argument(parser)
    add_compile_argument(parser)
    parser.add_argument("--classes", default="", metavar="A,B", help="evaluate only these classes")
    parser.add_argument(
        "--sizes",
        type=numbers,
        metavar="A,B",
        help="detectors: part small, medium and large objects at A x A and B x B px (eval.sizes; "
        "default: 32,96)",
    )
    parser.add_argument(
        "--conf",
        type=float,
        help="detectors: score from which on detections count as errors (default: that of the "
        "largest F1 of each class)",
    )
    parser.add_argument(
        "--thresholds",
        type=numbers,
        metavar="A,B",
        help="detectors: scores of the table of precision and recall (default: 0.05,0.1 .. 0.9)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="bootstrap resamples of the images for 95 %% intervals; 0: none",
    )
    parser.add_argument("--no-coco", action="store_true", help="detectors: skip the COCO metrics")
    parser.add_argument(
        "--hotcoco",
        action="store_true",
        help="detectors: compute the COCO metrics by hotcoco, a hundred times as fast as "
        "pycocotools (eval.coco_library)",
    )
    parser.add_argument(
        "--save-json",
        action="store_true",
        help="detectors: write all detections as COCO results, and the ground truth with their ids",
    )
    parser.add_argument(
        "--save-voc",
        action="store_true",
        help="detectors: write all detections as the VOC evaluation server takes them",
    )
    parser.add_argument(
        "--mean-box", action="store_true", help="localizers: also score the mean box of each class"
    )
    parser.add_argument(
        "--submission", type=Path, metavar="FILE", help="localizers: write an ILSVRC submission"
    )


def run(args: argparse.Namespace) -> int:
    evaluate(args)
    return 0


def evaluate(args: argparse.Namespace) -> Evaluation | None:
    """Evaluate, print and write; None if nothing was scored, as for images without annotations, in
    a dry run, and in all processes but the main one."""
    if args.manifest is not None:
        from resdet.tools.eval_manifest import score_results

        return score_results(args)
    if args.predictions or args.annotations or not args.weights:
        return score_predictions(args)
    from resdet.detection.config.files import read_config
    from resdet.detection.config.paths import START, missing_paths
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.engine.memory import evaluation_fits
    from resdet.detection.evaluation.prediction import Timer, emulation
    from resdet.detection.evaluation.report import print_report, write_report
    from resdet.detection.evaluation.subset import chosen_labels
    from resdet.detection.export.folder import weights_hash
    from resdet.detection.tasks.checkpoints import load_members, read_applicable
    from resdet.detection.tasks.compiling import compile_networks
    from resdet.detection.tasks.eval_split import (
        images_of,
        read_eval_split,
        sources_of,
        with_named_split,
    )
    from resdet.detection.tasks.hub import pulled
    from resdet.detection.tasks.registry import TASKS
    from resdet.detection.tasks.skipped import skipped_images
    from rich.console import Console

    default = beside_weights(args.weights[0], "eval")
    args.weights = [pulled(path) for path in args.weights]
    first = read_applicable(args.weights[0], *TASKS.values())
    task = first.task
    _expect_options_for(task.name, args)
    checkpoints = [first, *(read_applicable(path, task) for path in args.weights[1:])]
    base = read_config(task.schema, args.cfg) if args.cfg else None
    with process_group(args.device) as group:
        members = load_members(
            checkpoints,
            group.device,
            base=base,
            overrides=[*args.overrides, *_settings(args)],
            trust_paths=args.trust_paths,
        )
        leader, part = with_named_split(members[0], args.split)
        config: Any = leader.config
        if args.print_config:
            print_config(config, args.cfg)
            return None
        leader.named.expect_none("data")
        parts = (part, "train") if args.mean_box else (part,)  # boxes of the training images
        if missing := missing_paths(config, parts=parts, unused=START):
            raise ConfigError("\n".join(missing))
        pipeline = task.pipeline(members).to(group.device)
        if args.submission and pipeline.classifiers is None:
            raise ConfigError(
                "--submission: classes must be predicted; name test.classifiers=[FILE]"
            )
        compiled = compile_networks(pipeline, args.compile, group.device)
        split = read_eval_split(task, leader, part)
        if group.is_main and not args.weights[0].is_dir():  # an export has its own precision
            for line in emulation("test.precision", config.test.precision, group.device):
                say(line)
        if only := chosen_classes(args, split.classes):
            split = images_of(split, only)
            task.limit(pipeline, chosen_labels(only, split.classes))
        expect_something_to_do(args, sources_of(config, part), split)
        folder = args.out or default
        if group.is_main:  # fails before the evaluation, which may take hours
            expect_writable(folder)
            if args.submission:
                expect_writable(args.submission.absolute().parent)
        testing = "; ".join([task.describe_testing(members, pipeline), *compiled])
        testing += limited_to(only, split.classes)
        if args.dry_run:
            chosen = [split.classes[label] for label in chosen_labels(only, split.classes)]
            say(f"{len(split.records)} images, classes {', '.join(chosen)}")
            say(f"testing with: {testing}")
            return None
        options = _options(args, task, leader, split) | ({"only": only} if only else {})
        timer = Timer()
        with evaluation_fits(config.model_dump(mode="json"), group.device):
            found = task.predict_split(pipeline, config, split, group, Console(stderr=True), timer)
        evaluation = None
        with group.assisted():
            if found is not None and split.annotated:
                evaluation = replace(
                    task.evaluate(found, split, config, spread=group.spread, **options),
                    **analysis_options(args),
                    testing=testing,
                    weights=tuple(map(weights_hash, args.weights)),
                    class_words=leader.class_words(),
                    seconds_per_image=timer.seconds_per_image,
                )
        if found is None:
            return None
        written: tuple[Path, ...] = ()
        if evaluation is not None:
            print_report(evaluation, table_console())
            written = write_report(evaluation, folder)
        else:
            say(f"tested with: {testing}")
            say(f"{len(found)} images without annotations: nothing to score")
            if lines := skipped_images(found, split, config):
                say(f"note: {len(lines)} images without detections: {first_few(lines, 3)}")
    written += write_predictions(args, folder, found, split, sources_of(config, part))
    say("written: " + ", ".join(str(path) for path in written))
    if split.annotated:
        say(f"next: {page_command(folder)}")
    return evaluation


def _expect_options_for(task: str, args: argparse.Namespace) -> None:
    """Raise ConfigError for options that have no effect for the task."""
    own = ("save_json", "save_voc", "no_coco", "hotcoco", "sizes", "conf", "thresholds")
    given = [f"--{name.replace('_', '-')}" for name in own if getattr(args, name)]
    if task != "detection" and given:
        raise ConfigError(f"{', '.join(given)}: for detectors")
    if not task.startswith("localization") and (args.mean_box or args.submission):
        raise ConfigError("--mean-box and --submission are for localizers")
    if args.submission and args.classes:
        raise ConfigError("--submission: has the images of all classes; leave out --classes")


def _settings(args: argparse.Namespace) -> list[str]:
    """The overrides that options stand for."""
    sizes = [f"eval.sizes={list(args.sizes)}"] if args.sizes else []
    return [*sizes, *(["eval.coco_library=hotcoco"] if args.hotcoco else [])]


def _options(
    args: argparse.Namespace, task: Task, leader: Loaded, split: DataSplit
) -> dict[str, Any]:
    """The options of `Task.evaluate` that are specific to a task."""
    if args.no_coco:
        return {"coco": False}
    if not args.mean_box:
        return {}
    from resdet.detection.evaluation.localization_baseline import locate_by_mean_box, mean_boxes
    from resdet.detection.tasks.held_out import read_part

    train = read_part(task, leader.config, "train", leader.classes, leader.held_out)
    boxes = mean_boxes(train.records, leader.classes)
    return {"baseline": locate_by_mean_box(split.records, boxes)}


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("eval"))
