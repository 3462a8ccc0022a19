"""Answer HTTP requests with the predictions of a model: POST an image to /predict.

resdet serve --weights best.pt
curl --data-binary @street.jpg http://127.0.0.1:8000/predict
curl -F images=@a.jpg -F images=@b.jpg "http://127.0.0.1:8000/predict?score=0.3"

Also GET /model, /healthz, /readyz, /metrics (Prometheus) and /openapi.json. Only this machine can
connect unless --host says otherwise; then set a token, in a file or the variable RESDET_TOKEN.
Ctrl-C or SIGTERM finishes the accepted images and ends with 0.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.detection.files import read_limited
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_compile_argument,
    add_device_argument,
    add_weights_argument,
    split_overrides,
)
from resdet.tools.infer_settings import expect_used

HELP = "answer HTTP requests with the predictions of a model"
#: Bytes of the file of a token.
_LARGEST_TOKEN = 2**16
TOKEN = "RESDET_TOKEN"  # noqa: S105  the name of the variable
KEY = "LABEL_STUDIO_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override config values of testing, for example test.nms_iou=0.4",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients call the server by, beside localhost, that of --host and any "
        "address; * allows all; may be repeated",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="clients must send this")
    parser.add_argument(
        "--conf",
        type=float,
        metavar="X",
        help="minimum score (default: 0.5, of classifiers and localizers 0)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images of one network size that share a batch (default: on a GPU 8, else 1)",
    )
    parser.add_argument(
        "--queue", type=int, default=64, metavar="N", help="images accepted and unanswered"
    )
    parser.add_argument(
        "--max-bytes", type=int, default=32 * 2**20, metavar="N", help="limit of a body"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=50_000_000, metavar="N", help="limit of an image"
    )
    parser.add_argument(
        "--label-studio",
        metavar="URL",
        help="answer a Label Studio, below /label-studio: fetches images from this address, with"
        f" the key in {KEY}",
    )
    add_device_argument(parser)
    add_compile_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Return 0 after a signal; raises ResdetError where the model stopped."""
    from resdet.detection.extras import expect_extra

    expect_extra("serve")
    from resdet.detection.predictor import load
    from resdet.detection.serving.options import LabelStudio, ServeOptions
    from resdet.detection.serving.run import bind, is_local, serve

    overrides, others = split_overrides(args.overrides)
    if others:
        raise ConfigError(f"{others[0]}: expected key=value; images are sent to the server")
    options = ServeOptions(
        batch_size=1 if args.batch_size is None else args.batch_size,
        queue=args.queue,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        token=_token(args.token_file),
        hosts=(args.host, *args.allow_host),
        label_studio=args.label_studio
        and LabelStudio(args.label_studio, os.environ.get(KEY) or None),
    )
    bound = bind(args.host, args.port)
    # In a thread that ends: one that has computed keeps OpenMP's workers, and where there are more
    # of these than cores, those of the model's thread sleep between operations.
    with ThreadPoolExecutor(1) as loading:
        predictor = loading.submit(
            load,
            args.weights,
            args.device,
            overrides,
            trust_paths=args.trust_paths,
            score_threshold=args.conf,
            compile=args.compile,
        ).result()
    expect_used(predictor, overrides)
    if args.batch_size is None and predictor.device.type == "cuda":
        options = replace(options, batch_size=8)
    for line in str(predictor).splitlines():
        say(line)
    if not is_local(args.host) and options.token is None:
        say(f"warning: anybody who reaches {args.host} can use the model: set {TOKEN}")
    serve(predictor, options, bound)
    return 0


def _token(path: Path | None) -> str | None:
    """The token in a file, or in the environment; None without."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        return read_limited(path, _LARGEST_TOKEN).decode().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--token-file {path}: cannot be read: {error}") from error


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("serve"))
