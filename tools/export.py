"""Write a trained network as a graph of ONNX or OpenVINO, verified against its checkpoint.

resdet export --weights runs/detector/weights/best.pt --out exported
resdet export --weights best.pt --out exported test.nms_iou=0.4 test.score_threshold=0.05
resdet export --weights best.pt --out parts --graphs two
resdet export --weights best.pt --out int8 --int8 --calibrate runs/detector/config.yaml
resdet export --weights best.pt --out vino --format openvino
resdet infer --weights exported street.jpg
resdet eval --weights exported

A detector's takes images (N, 3, H, W) uint8 RGB of any size and gives image, boxes, scores and
labels after suppression. The folder holds it as model.onnx with meta.json: the resize before it,
classes, settings, versions, and the differences from the checkpoint on images of three sizes.
Where more than 2 % of the results differ by more than 0.05 px or 0.001 in score, nothing is
written. runner.py runs it without PyTorch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say, say_next
from resdet.tools.arguments import add_weights_argument

HELP = "write a trained network as a graph of ONNX or OpenVINO, checked against its checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser, "trained weights")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override config values of testing, for example test.nms_iou=0.4, and with --int8 of "
        "the config that calibrates, for example data.root=DIR",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--graphs",
        choices=["one", "two"],
        default="one",
        help="one graph, or a detector cut at its crops, which keeps all settings of testing",
    )
    parser.add_argument("--int8", action="store_true", help="quantize a detector, as two graphs")
    parser.add_argument(
        "--calibrate",
        metavar="CFG|FOLDER",
        help="with --int8: a config, whose training images calibrate and whose validation images "
        "compare, or a folder of images, which leaves the result untested",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="with --int8: images that calibrate (default: 128)"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="with --int8: largest loss of AP50 and of AP75, in points (default: 1)",
    )
    parser.add_argument(
        "--format", choices=["onnx", "openvino"], default="onnx", help="format of the graphs"
    )


def run(args: argparse.Namespace) -> int:
    from resdet.detection.tasks.exporting import Int8, export
    from resdet.detection.tasks.quantizing import table

    if args.int8 != bool(args.calibrate):
        raise ConfigError("--int8 and --calibrate: give both or neither")
    if not args.int8 and (args.images is not None or args.max_drop is not None):
        raise ConfigError("--images and --max-drop are for --int8")
    images = 128 if args.images is None else args.images
    drop = 1.0 if args.max_drop is None else args.max_drop
    if not (0 <= drop <= 100):
        raise ConfigError(f"--max-drop {drop:g}: points are from 0 to 100")
    of_data = [each for each in args.overrides if each.startswith("data.")]
    int8 = Int8(args.calibrate, images, drop, of_data) if args.int8 else None
    done = export(
        args.weights,
        args.out,
        [each for each in args.overrides if not int8 or each not in of_data],
        graphs=args.graphs,
        form=args.format,
        int8=int8,
        trust_paths=args.trust_paths,
    )
    if done.int8:
        say("before int8, compared with the checkpoint:")
    for each in done.agreements:
        height, width = each.size
        say(
            f"{each.batch} image(s) of {height}x{width} with {each.content}: {each.compared} "
            f"results, {each.lost} differ; the others by at most {each.box_error:.2g} px and "
            f"{each.score_error:.2g} in score"
        )
    if not any(each.compared for each in done.agreements):
        say("warning: nothing was found in the drawn images, so no detections were compared:")
        say("export with a lower test.score_threshold, or compare `resdet eval` of both")
    if done.int8:
        rows, kinds = done.int8["metrics"], done.int8["instructions"]
        say(f"int8, {done.int8['layers']}: {rows if rows == 'untested' else 'within the limit'}")
        if rows != "untested":
            for line in table(rows).splitlines():
                say(line)
        if not kinds:
            say("this processor multiplies int8 no faster than float: measure it where it will run")
    say(f"written: {done.out} ({done.size / 1e6:.1f} MB)")
    say_next("resdet", "eval", "--weights", done.out)
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("export"))
