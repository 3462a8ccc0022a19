"""Run a model on images and write JSON lines, COCO JSON, CSV, drawings and sorted images."""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import add_device_argument, add_weights_argument, split_overrides
from resdet.tools.progress import inference_progress
from resdet.tools.source_arguments import format_named

if TYPE_CHECKING:
    from resdet.detection.inference.folder import FolderSummary
    from resdet.detection.inference.inputs import InputFile

HELP = "run a model on images, folders, globs or lists of images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, folder, glob, list (.txt), or an override such as test.nms_iou=0.4",
    )
    parser.add_argument(
        "--out", type=Path, help="new or empty output folder (default: runs/infer/<time>)"
    )
    parser.add_argument(
        "--conf",
        "--conf-thres",
        action="append",
        default=[],
        metavar="X|CLASS=X",
        help="minimum score (default: 0.5, of a classifier 0), or that of one class; may be "
        "repeated",
    )
    parser.add_argument("--classes", default="", metavar="A,B", help="keep only these classes")
    parser.add_argument(
        "--agnostic-nms",
        action="store_true",
        help="keep one box for one place, whatever its class: test.suppress.class_agnostic=true",
    )
    parser.add_argument("--batch-size", "--batch", type=int, default=1, help="images per batch")
    add_device_argument(parser)
    parser.add_argument("--workers", type=int, default=2, help="reading threads; as many draw")
    parser.add_argument(
        "--draw",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write images with drawn boxes, or the best class, to OUT/drawn",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="look at images that are larger than this in tiles too, for small objects",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="least overlap of tiles as a share of their side (default: 0.2)",
    )
    parser.add_argument(
        "--save-crop",
        action="store_true",
        help="write the pixels of each detection to OUT/crops/CLASS",
    )
    parser.add_argument(
        "--sort-by-class",
        action="store_true",
        help="of a classifier: link (or copy) each image to OUT/sorted/CLASS of its best class",
    )
    parser.add_argument(
        "--coco-ids",
        type=Path,
        metavar="FILE",
        help="COCO file whose ids the COCO output uses: of images by file name, of classes by name",
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        type=format_named("boxes"),
        metavar="FORMAT",
        help="also write OUT/annotations/FORMAT for people to correct: label_studio, cvat, "
        "labelme, voc, yolo, coco or csv; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="skip images that OUT already has")
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="every N-th image, from the I-th on"
    )
    parser.add_argument("--strict", action="store_true", help="exit with code 5 if an image failed")


def run(args: argparse.Namespace) -> int:
    """Return 0, 5 if all images failed, or one that was named itself, or some with ``--strict``, or
    130 or 143 if interrupted.

    Raises ConfigError and WeightsError like `load`, `find_inputs` and `run_folder` do.
    """
    from resdet.datasets.formats.coco_ids import coco_ids
    from resdet.detection.engine.signals import StopRequest
    from resdet.detection.inference.folder import FolderOptions, run_folder
    from resdet.detection.inference.inputs import find_inputs
    from resdet.detection.inference.outputs import ClassOutput
    from resdet.detection.predictor import load

    if unwritten := [each.name for each in args.format if each.writer is None]:
        raise ConfigError(f"--format: {', '.join(unwritten)} is not written")
    if args.resume and args.out is None:
        raise ConfigError("--resume: give --out, the folder of the run to continue")
    args.out = args.out or _new_folder()
    overrides, inputs = split_overrides(args.inputs)
    overrides += ["test.suppress.class_agnostic=true"] if args.agnostic_nms else []
    if not inputs:
        raise ConfigError("no input: give a folder, a glob, a list file or an image")
    files = _shard(find_inputs(inputs, exclude=args.out), args.shard)
    predictor = load(args.weights, args.device, overrides, trust_paths=args.trust_paths)
    if args.overlap is not None and args.tile is None:
        raise ConfigError("--overlap: is that of tiles; give --tile, their side in pixels")
    if args.tile is not None:
        predictor = predictor.tiled(args.tile, _overlap(args))
    output = predictor.output
    if args.format and isinstance(output, ClassOutput):
        raise ConfigError("--format: annotations are boxes, which a classifier lacks")
    least, of_classes = _thresholds(args.conf, predictor.classes)
    options = FolderOptions(
        score_threshold=output.threshold if least is None else least,
        class_thresholds=of_classes,
        only_classes=_names(args.classes, predictor.classes),
        batch_size=args.batch_size,
        draw=args.draw,
        resume=args.resume,
        workers=args.workers,
        coco_ids=coco_ids(args.coco_ids) if args.coco_ids else None,
        sort_by_class=args.sort_by_class,
        save_crops=args.save_crop,
        provenance=_provenance(args, overrides),
    )
    say(f"{len(files)} images, {len(predictor.classes)} classes, on {predictor.device}")
    say(f"testing with: {predictor.testing}")
    with StopRequest() as stop, inference_progress() as report:
        summary = run_folder(
            predictor, files, args.out, options, stop=lambda: stop.requested, report=report
        )
    _print_summary(summary, output.noun)
    for format in args.format if not summary.interrupted else ():
        _write_annotations(args.out, format.name)
    if summary.interrupted:
        say(f"interrupted; continue with: {_resume_command(args)}")
        return stop.exit_code
    failed = {name for name, _ in summary.failures}
    named = any(file.named and file.name in failed for file in files)
    return 5 if named or (failed and (args.strict or len(failed) == summary.total)) else 0


def _new_folder() -> Path:
    """``runs/infer/<time>``, with a number where another run began in the same second."""
    runs, name = Path("runs") / "infer", time.strftime("%Y%m%d-%H%M%S")
    numbered = (runs / (f"{name}-{number}" if number > 1 else name) for number in count(1))
    return next(path for path in numbered if not path.exists())


def _overlap(args: argparse.Namespace) -> float:
    return 0.2 if args.overlap is None else float(args.overlap)


def _names(text: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of ``A, B``; a class whose own name has a comma is taken as it is."""
    if text in classes:
        return (text,)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _thresholds(
    words: Sequence[str], classes: Sequence[str]
) -> tuple[float | None, dict[str, float]]:
    """The minimum score, if given, and those of single classes, of ``0.3``, ``cat=0.6`` or both in
    one word, separated by commas. The last one counts."""
    least: float | None = None
    of_classes: dict[str, float] = {}
    for word in words:
        parts = [word] if word.rpartition("=")[0] in classes else word.split(",")
        for part in parts:
            name, equals, number = part.strip().rpartition("=")
            try:
                score = float(number)
            except ValueError:
                raise ConfigError(
                    f"--conf {word}: expected a score such as 0.3, or CLASS=0.6"
                ) from None
            if equals:
                of_classes[name.strip()] = score
            else:
                least = score
    return least, of_classes


def _write_annotations(out: Path, format: str) -> None:
    from resdet.detection.inference.annotations import write_annotations

    folder, plan = write_annotations(out, format)
    say(f"annotations: {folder}")
    for line in plan.losses:
        say(f"  lost: {line}")


def _shard(files: list[InputFile], text: str) -> list[InputFile]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {text}: expected I/N with I from 1 to N")
    return files[index - 1 :: count]


def _provenance(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from resdet.detection.files import sha256_of

    return {
        "weights": [path.name for path in args.weights],
        "weights_sha256": [sha256_of(path) for path in args.weights],
        "overrides": overrides,
        "shard": args.shard,
        **({"tile": args.tile, "overlap": _overlap(args)} if args.tile is not None else {}),
        "coco_ids_sha256": sha256_of(args.coco_ids) if args.coco_ids else None,
        "versions": {name: _version(name) for name in ("resdet", "torch", "torchvision")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _print_summary(summary: FolderSummary, noun: str) -> None:
    rate = summary.new / summary.seconds if summary.seconds > 0 else 0.0
    earlier = summary.done - summary.new
    say(
        f"{summary.done} of {summary.total} images done"
        + (f" ({earlier} earlier)" if earlier else "")
        + f", {summary.found} {noun}, {len(summary.failures)} failed, "
        f"{rate:.2f} images/s"
    )
    for name, reason in summary.failures[:20]:
        say(f"  failed: {name}: {reason}")
    if len(summary.failures) > 20:
        say(f"  … and {len(summary.failures) - 20} more: see the records with an error")
    say(f"results: {summary.out}")


def _resume_command(args: argparse.Namespace) -> str:
    words = ["resdet", "infer"]
    for path in args.weights:
        words += ["--weights", str(path)]
    words += args.inputs
    words += ["--out", str(args.out)]
    words += [word for conf in args.conf for word in ("--conf", conf)]
    words += ["--classes", args.classes] if args.classes else []
    words += ["--batch-size", str(args.batch_size), "--workers", str(args.workers)]
    words += ["--device", args.device] if args.device else []
    words += ["--trust-paths"] if args.trust_paths else []
    words += ["--coco-ids", str(args.coco_ids)] if args.coco_ids else []
    words += [] if args.draw else ["--no-draw"]
    words += ["--tile", str(args.tile)] if args.tile is not None else []
    words += ["--overlap", str(args.overlap)] if args.overlap is not None else []
    words += ["--agnostic-nms"] if args.agnostic_nms else []
    words += ["--save-crop"] if args.save_crop else []
    words += ["--sort-by-class"] if args.sort_by_class else []
    words += [word for each in args.format for word in ("--format", each.name)]
    words += ["--shard", args.shard] if args.shard != "1/1" else []
    words += ["--strict"] if args.strict else []
    return shlex.join([*words, "--resume"])


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("infer"))
