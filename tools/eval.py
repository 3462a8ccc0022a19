"""The command ``eval``: how good is a detector, a classifier or a localizer on a data set?

resdet eval --weights runs/detector/weights/best.pt test.nms_iou=0.4
resdet eval --weights classifier.pt test.protocol=ten_crop
resdet eval --weights one.pt --weights other.pt test.protocol=multi_scale test.flip=true
resdet eval --weights localizer.pt test.classifiers=[classifier.pt] --submission answers.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError, DataError
from resdet.tools.arguments import add_config_arguments

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.detection.config.base import Section
    from resdet.detection.engine.distributed import Group

HELP = "score a detector (mAP, COCO AP), a classifier or a localizer (top-1 and top-5 error)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        required=True,
        type=Path,
        action="append",
        help="trained weights; repeat it for an ensemble",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="which data (val)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--no-coco", action="store_true", help="detectors: leave out COCO's numbers (slow)"
    )
    parser.add_argument(
        "--save-json", action="store_true", help="detectors: write all detections too"
    )
    parser.add_argument(
        "--mean-box",
        action="store_true",
        help="localizers: score the mean box of each class in training too",
    )
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE",
        help="localizers: write the predictions as the ILSVRC challenge takes them (CSV)",
    )


def run(args: argparse.Namespace) -> int:
    from resdet.detection.engine.checkpoint import read_task
    from resdet.detection.engine.distributed import process_group

    evaluate = {
        "detection": _evaluate_detector,
        "classification": _evaluate_classifier,
        "localization": _evaluate_localizer,
        "localization_rcnn": _evaluate_localizer,
    }
    task = read_task(args.weights[0])
    _expect_options_for(task, args)
    with process_group(args.device) as group:
        return evaluate[task](args, group)


def _evaluate_detector(args: argparse.Namespace, group: Group) -> int:
    from resdet.detection.config.files import load_config
    from resdet.detection.evaluation.report import print_table, write_report
    from resdet.detection.evaluation.run import Timer
    from resdet.detection.tasks.detector import describe_testing
    from resdet.detection.tasks.detector_testing import build_test_split, detect_split, score_split
    from resdet.detection.tasks.detector_weights import load_detectors
    from rich.console import Console

    base = load_config(args.cfg) if args.cfg else None
    detector = load_detectors(args.weights, group.device, base=base, overrides=args.overrides)
    if _printed(args, detector.config):
        return 0
    split = build_test_split(detector, args.split)
    folder = _folder(args, split, group)
    if args.dry_run:
        print(_dry_run(split, detector.classes))
        return 0
    timer = Timer()
    found = detect_split(detector, split, group, progress=Console(stderr=True), timer=timer)
    if found is None:
        return 0
    evaluation = replace(
        score_split(detector, split, found, coco=not args.no_coco),
        testing=describe_testing(detector),
        seconds_per_image=timer.seconds_per_image,
    )
    print_table(evaluation, Console())
    _say_written(write_report(evaluation, folder, detections=found if args.save_json else None))
    return 0


def _evaluate_classifier(args: argparse.Namespace, group: Group) -> int:
    from resdet.detection.config.classifier import ClassifierConfig
    from resdet.detection.config.files import read_config
    from resdet.detection.evaluation.classification import (
        print_classification,
        write_classification,
    )
    from resdet.detection.evaluation.run import Timer
    from resdet.detection.tasks.classifier import build_test_images, describe_testing
    from resdet.detection.tasks.classifier_testing import evaluate_split, score_images
    from resdet.detection.tasks.classifier_weights import load_classifiers
    from rich.console import Console

    base = read_config(ClassifierConfig, args.cfg) if args.cfg else None
    classifier = load_classifiers(args.weights, group.device, base=base, overrides=args.overrides)
    if _printed(args, classifier.config):
        return 0
    images = build_test_images(classifier, args.split)
    folder = _folder(args, images.split, group)
    if args.dry_run:
        print(_dry_run(images.split, classifier.classes))
        return 0
    timer = Timer()
    scores = score_images(classifier, images, group, progress=Console(stderr=True), timer=timer)
    if scores is None:
        return 0
    evaluation = replace(
        evaluate_split(classifier, images.split, scores),
        testing=describe_testing(classifier),
        seconds_per_image=timer.seconds_per_image,
    )
    print_classification(evaluation, Console())
    _say_written(write_classification(evaluation, folder))
    return 0


def _evaluate_localizer(args: argparse.Namespace, group: Group) -> int:
    from resdet.datasets.formats.submission import write_submission
    from resdet.detection.evaluation.localization import print_localization, write_localization
    from resdet.detection.evaluation.mean_box import locate_by_mean_box, mean_boxes
    from resdet.detection.evaluation.run import Timer
    from resdet.detection.tasks.localizer import (
        build_location_pipeline,
        describe_locating,
        read_split,
    )
    from resdet.detection.tasks.localizer_testing import evaluate_split, locate_split
    from resdet.detection.tasks.localizer_weights import load_ensemble, read_base
    from rich.console import Console

    base = read_base(args.weights[0], args.cfg) if args.cfg else None
    ensemble = load_ensemble(args.weights, group.device, base=base, overrides=args.overrides)
    config, classes = ensemble.lead, ensemble.classes
    if args.submission and ensemble.classifier is None:
        raise ConfigError("--submission: classes must be predicted; name test.classifiers=[FILE]")
    if _printed(args, config):
        return 0
    split = read_split(config, args.split, classes)
    folder = _folder(args, split, group)
    if args.dry_run:
        print(_dry_run(split, classes))
        return 0
    trivial = None
    if group.is_main:  # before the hours of evaluation, not after them
        if args.submission:
            _expect_writable(args.submission.absolute().parent)
        if args.mean_box:
            boxes = mean_boxes(read_split(config, "train", classes).records, classes)
            trivial = locate_by_mean_box(split.records, boxes)
    timer = Timer()
    found = locate_split(
        build_location_pipeline(ensemble), split, config, group, Console(stderr=True), timer
    )
    if found is None:
        return 0
    evaluation = replace(
        evaluate_split(found, split, config, trivial),
        testing=describe_locating(ensemble),
        seconds_per_image=timer.seconds_per_image,
    )
    print_localization(evaluation, Console())
    written = write_localization(evaluation, folder)
    if args.submission:
        predicted = {name: located.predicted for name, located in found.items()}
        write_submission(predicted, classes, args.submission)
        written = (*written, args.submission)
    _say_written(written)
    return 0


def _expect_options_for(task: str, args: argparse.Namespace) -> None:
    """An option that would do nothing is a mistake."""
    if task != "detection" and (args.save_json or args.no_coco):
        raise ConfigError("--save-json and --no-coco are for detectors")
    if not task.startswith("localization") and (args.mean_box or args.submission):
        raise ConfigError("--mean-box and --submission are for localizers")


def _printed(args: argparse.Namespace, config: Section) -> bool:
    """Whether the config was only to be printed; else its paths are known to exist."""
    from resdet.detection.config.files import dump_config, missing_paths

    if args.print_config:
        print(dump_config(config), end="")
        return True
    if missing := missing_paths(config):
        raise ConfigError("\n".join(missing))
    return False


def _folder(args: argparse.Namespace, split: DataSplit, group: Group) -> Path:
    """Where the report goes, known to be writable; there is something to report."""
    if not split.records:
        raise DataError(f"data.{args.split}: no images to evaluate")
    folder = args.out or _beside(args.weights[0])
    if group.is_main:
        _expect_writable(folder)
    return folder


def _dry_run(split: DataSplit, classes: Sequence[str]) -> str:
    return f"{len(split.records)} images, classes {', '.join(classes)}"


def _say_written(paths: Sequence[Path]) -> None:
    print("written: " + ", ".join(str(path) for path in paths))


def _expect_writable(folder: Path) -> None:
    """Said before the hour of evaluation, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def _beside(weights: Path) -> Path:
    """The run folder's ``eval`` for ``run/weights/best.pt``; else a folder beside the file."""
    run_folder = weights.parent.parent if weights.parent.name == "weights" else weights.parent
    return run_folder / "eval"


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("eval"))
