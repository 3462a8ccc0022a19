"""Find faults of a data set before training.

resdet check-data data/VOC2007
resdet check-data data/coco --out checked
resdet check-data data/mine --write-config mine.yaml
resdet check-data images --annotations instances.json --quick
resdet check-data --cfg voc_r101.yaml data.root=data

The format of a folder is recognised: PASCAL VOC, COCO, YOLO, labelme, Label Studio, CVAT, CSV,
ILSVRC, CUB-200-2011, Tiny ImageNet, class folders (image_folder), or images without annotations.
With --cfg, the sources, classes and anchors of the config are checked. With --out, the folder gets
data_report.json, data_report.html (opens offline, shows each kind of finding) and, unless
--no-cache, images.jsonl, a cache with which the next check decodes only new files. Without --out
nothing is written.

An error stops training, a warning may affect results, a note is information; docs/findings.md
explains each kind. Exit code 0: no errors; 3: errors, after the whole report.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError, DataError
from resdet.detection.printing import progress_of, say
from resdet.tools.arguments import add_max_pixels_argument
from resdet.tools.source_arguments import add_outside_argument, format_named

if TYPE_CHECKING:
    from resdet.datasets.checks.check import DataSet, Report
    from resdet.detection.tasks.base import Task

HELP = "find what is wrong with a data set: images, annotations, classes, boxes, duplicates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="PATH | key=value", help="a folder, or with --cfg overrides"
    )
    parser.add_argument(
        "--cfg", "--config", "--config-file", dest="cfg", metavar="FILE", help="config to check"
    )
    parser.add_argument(
        "--format",
        type=format_named(),
        metavar="FORMAT",
        help="format of PATH (default: recognised)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        default=[],
        help="annotations (COCO, CSV, CVAT, Label Studio) of the images in PATH",
    )
    parser.add_argument(
        "--coordinates",
        choices=("one_based", "zero_based"),
        default="one_based",
        help="coordinates of VOC boxes in PATH",
    )
    add_outside_argument(parser)
    parser.add_argument("--classes", metavar="A,B", help="class names (default: all that occur)")
    parser.add_argument(
        "--write-classes", type=Path, metavar="FILE", help="write the class list as a config"
    )
    parser.add_argument(
        "--write-config", type=Path, metavar="FILE", help="write a config that trains on PATH"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report here")
    parser.add_argument(
        "--quick", action="store_true", help="only read headers; do not decode or compare images"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes for decoding (default: all cores)"
    )
    add_max_pixels_argument(parser)
    parser.add_argument("--no-cache", action="store_true", help="do not read or write a cache")


def run(args: argparse.Namespace) -> int:
    """Check, print, write; raises DataError when errors were found, after reporting them all."""
    data, report = inspect(args)
    errors = sum(finding.severity == "error" for finding in report.findings)
    if errors:
        raise DataError(f"{data.origin}: {errors} error{'s' * (errors > 1)}, see above")
    return 0


def inspect(args: argparse.Namespace) -> tuple[DataSet, Report]:
    """Check, print, write; errors in the data are in the report."""
    from resdet.datasets.checks.check import Effort, check
    from resdet.datasets.listing import listed_once
    from resdet.tools.check_config import next_command, validation_hint, write_config
    from resdet.tools.check_summary import print_report
    from resdet.tools.proposed_base import DETECTORS

    if args.cfg and args.write_config:
        raise ConfigError("--write-config: only for PATH; there is a config")
    if args.cfg and args.max_pixels is not None:
        args.words.append(f"data.max_pixels={args.max_pixels}")
    config = _config(args) if args.cfg else None
    if args.out:
        _make(args.out)
    with listed_once(), progress_of("decoding") as progress:
        data = _configured(args, config) if config else _folder(args)
        if args.write_config and data.content == "boxes":
            data = replace(data, scales=DETECTORS)
        effort = Effort(
            decode=not args.quick,
            workers=_workers(args.workers),
            cache=args.out / "images.jsonl" if args.out and not args.no_cache else None,
            progress=progress,
        )
        report = check(data, effort)
    print_report(report, data.origin)
    if args.write_classes:
        _write_classes(report, args.write_classes)
    if args.write_config:
        write_config(data, report, args.write_config)
    if config:
        from resdet.detection.config.inherited import contradicted, inherited_data

        inherited = inherited_data(config, args.cfg, args.words)
        for line in contradicted(inherited, report.findings):
            say(line)
    if hint := validation_hint(data, config):
        say(hint)
    command = next_command(args, data, report, _task(args).command if config else "")
    if args.out:
        _write(report, args.out, command)
    if command:
        say(f"next: {command}")
    return data, report


def _config(args: argparse.Namespace) -> Any:
    """The config of ``--cfg``, whose data exist; raises ConfigError."""
    from resdet.detection.config.files import read_config
    from resdet.detection.config.inherited import inherited_data, with_bases
    from resdet.detection.config.paths import missing_paths

    for option in ("format", "annotations", "classes", "allow_outside"):
        if getattr(args, option):
            name = option.replace("_", "-")
            raise ConfigError(f"--{name}: only for PATH; the config defines it")
    config: Any = read_config(_task(args).schema, args.cfg, args.words)
    missing = [line for line in missing_paths(config) if line.startswith("data.")]
    if missing:
        raise ConfigError(with_bases(missing, inherited_data(config, args.cfg, args.words)))
    return config


def _task(args: argparse.Namespace) -> Task:
    """The task that the config of ``--cfg`` states."""
    from resdet.detection.config.files import stated_task
    from resdet.detection.tasks.registry import TASKS

    return TASKS.get(stated_task(args.cfg), TASKS["detection"])


def _configured(args: argparse.Namespace, config: Any) -> DataSet:
    from resdet.datasets.checks.sources import config_data
    from resdet.datasets.formats.format import Reading
    from resdet.detection.config.data_rules import anchors_in_training, image_rules
    from resdet.detection.config.detector import DetectorConfig
    from resdet.detection.config.files import find_config

    # With difficult objects, also where training leaves them out.
    included = getattr(config.data, "difficult", "") == "include"
    reading = Reading(
        image_rules(config),
        "include" if included else "ignore",
        on_size_mismatch=getattr(config.data, "on_size_mismatch", "error"),
        allow_outside=getattr(config.data, "allow_outside", False),
        workers=_workers(args.workers),
    )
    anchors = anchors_in_training(config) if isinstance(config, DetectorConfig) else None
    return config_data(Path(find_config(args.cfg)), config.data, reading, anchors)


def _folder(args: argparse.Namespace) -> DataSet:
    from resdet.datasets.checks.sources import folder_data
    from resdet.datasets.checks.statistics import DEFAULT_ANCHORS
    from resdet.datasets.formats import format_of_file, recognise
    from resdet.datasets.formats.format import Reading
    from resdet.datasets.image import CROP_RULES, DEFAULT_RULES

    if len(args.words) != 1:
        raise ConfigError("give one PATH, or --cfg FILE with overrides")
    root = Path(args.words[0])
    format = args.format or (format_of_file(args.annotations[0]) if args.annotations else None)
    if format is None:
        recognition = recognise(root)
        say(recognition)
        format = recognition.format
    if args.annotations and "annotations" not in format.source.model_fields:
        raise ConfigError(
            f"--annotations: not for {format.name}, whose annotations are not one file"
        )
    if args.classes and format.carries == "nothing":
        raise ConfigError("--classes: only where something is annotated")
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    # As training reads such data. The schemas say the same, but importing them takes seconds.
    rules = DEFAULT_RULES if format.carries in ("boxes", "nothing") else CROP_RULES
    if args.max_pixels is not None:
        rules = replace(rules, max_pixels=args.max_pixels)
    return folder_data(
        root,
        format,
        Reading(rules, workers=_workers(args.workers), allow_outside=args.allow_outside),
        annotations=args.annotations,
        coordinates=args.coordinates,
        classes=tuple(args.classes.split(",")) if args.classes else None,
        anchors=DEFAULT_ANCHORS,
    )


def _workers(asked: int | None) -> int:
    if asked is None:
        return os.cpu_count() or 1
    if asked < 0:
        raise ConfigError(f"--workers: expected 0 or more, got {asked}")
    return asked


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror or error}") from error


def _write(report: Report, out: Path, command: str) -> None:
    from resdet.datasets.checks.report import write_check_page, write_report

    write_report(report, out / "data_report.json")
    page = out / "data_report.html"
    write_check_page(report, page, command)
    say(f"open in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def _write_classes(report: Report, path: Path) -> None:
    import json

    from resdet.detection.files import write_file

    names = json.dumps([each.name for each in report.classes], ensure_ascii=False)
    write_file(path, f"data:\n  classes: {names}\n", error=ConfigError)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("check-data"))
