"""List the images of a large run once, into Parquet files of a few thousand each.

resdet manifest /data/images --out m
resdet manifest s3://bucket/2026 --out m --per-shard 2000
resdet manifest "gs://bucket/shards/*.tar" https://host/list.txt --out s3://bucket/m

A source is a folder, a glob, a tar file or a list (.txt, one path or address on each line), on a
disk or at an address that fsspec knows. To continue an interrupted listing, run the same command
again. `resdet infer --manifest` runs a model on the images.
"""

from __future__ import annotations

import argparse
import sys

from resdet.detection.printing import say
from resdet.tools.arguments import positive

HELP = "list the images of folders, tars and object storage for a run on many machines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, glob, tar or list")
    parser.add_argument("--out", required=True, metavar="DIR|URL", help="folder of the manifest")
    parser.add_argument(
        "--per-shard",
        type=positive,
        default=2000,
        metavar="N",
        help="images in one file, which are predicted as one piece of work",
    )
    parser.add_argument(
        "--include-hidden",
        action="store_true",
        help="take hidden and system files too: ._a.jpg, .thumbnails",
    )


def run(args: argparse.Namespace) -> int:
    """List; raises ConfigError and DataError."""
    from resdet.datasets.manifests.manifest import write_manifest

    manifest = write_manifest(
        args.sources,
        args.out,
        per_shard=args.per_shard,
        hidden=args.include_hidden,
        report=lambda images: say(f"{images} images", file=sys.stderr),
    )
    say(f"{args.out}: {manifest.images} images in {manifest.shards} shards")
    for kind, count in manifest.left_out.items():
        say(f"  left out: {count} {kind}")
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("manifest"))
