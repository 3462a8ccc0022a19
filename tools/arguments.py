"""Command-line options that several tools share, and checks of their values."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeVar

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say

if TYPE_CHECKING:
    from resdet.detection.config.base import Section

AnyConfig = TypeVar("AnyConfig", bound="Section")

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+=")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--cfg``, ``key=value`` overrides, ``--print-config`` and ``--dry-run``."""
    parser.add_argument(
        "--cfg",
        "--config",
        "--config-file",
        dest="cfg",
        metavar="FILE",
        required=required,
        help="config file, or the name of a shipped config, such as voc_r101.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override config values, for example train.lr=0.01 data.root=DIR",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the complete config and exit"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check config and data, then exit without running"
    )


def print_config(config: Section, cfg: str | None) -> None:
    """Print a config, after the file ``cfg`` and its bases if there are any."""
    from resdet.detection.config.files import dump_config, find_config
    from resdet.detection.config.layers import config_chain

    chain = config_chain(find_config(cfg)) if cfg else []
    if len(chain) > 1:
        say(f"# {', on top of '.join(map(str, chain))}")
    print(dump_config(config), end="")


def add_weights_argument(
    parser: argparse.ArgumentParser,
    help: str = "trained weights; repeat for an ensemble",
    *,
    required: bool = True,
) -> None:
    parser.add_argument("--weights", required=required, type=Path, action="append", help=help)
    add_trust_argument(parser)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-paths",
        action="store_true",
        help="open the paths that a checkpoint names even if neither you nor its run folder do",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: the first GPU, else cpu)")


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        choices=("default", "reduce-overhead"),
        help="compile the networks (torch.compile), for a GPU, untested there: the first images "
        "wait for it; reduce-overhead also runs them in CUDA graphs, for images of few sizes",
    )


def add_max_pixels_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse images with more pixels (default: 89478485), as data.max_pixels=N does",
    )


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError(f"not positive: {text}")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """The numbers in a list such as ``32,96``, for argparse."""
    values = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, values)):
        raise ValueError(f"not finite: {text}")
    return values


def names(text: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The names in ``A, B``, known or not. One of ``classes`` may have commas itself; of several
    that fit it is the longest."""
    if text in classes:
        return (text,)
    known = {_between_commas(name): name for name in classes}
    longest = max(map(len, known), default=1)
    found, rest = [], _between_commas(text)
    while rest:
        fitting = (end for end in range(longest, 0, -1) if rest[:end] in known)
        end = next(fitting, 1)
        found.append(known.get(rest[:end], rest[0]))
        rest = rest[end:]
    return tuple(found)


def _between_commas(text: str) -> tuple[str, ...]:
    return tuple(part for word in text.split(",") if (part := word.strip()))


def add_font_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--font",
        type=Path,
        metavar="FILE",
        help="draw class names with this font (default: one of the system that has the characters)",
    )


def config_from_args(args: argparse.Namespace, schema: type[AnyConfig]) -> AnyConfig:
    """Return the config given by ``--cfg`` and the overrides; raises ConfigError.

    Paths in the config may not exist: `missing_paths` in detection/config/files.py checks them.
    """
    from resdet.detection.config.files import read_config

    if args.cfg is None:
        raise ConfigError("no config: give --cfg FILE, or the name of a shipped one")
    return read_config(schema, args.cfg, args.overrides)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides, others): ``test.nms_iou=0.4`` is an override unless a file has that name."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not Path(word).exists()]
    return overrides, [word for word in words if word not in overrides]


def expect_positive(args: argparse.Namespace, *options: str) -> None:
    """Raise ConfigError for a given option, such as ``images``, that is below 1."""
    for option in options:
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option} {value}: expected at least 1")


def expect_new_safetensors(path: Path, *, force: bool) -> None:
    """Raise ConfigError for another suffix, or for an existing file without ``--force``."""
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: the output file must end in .safetensors")
    if path.exists() and not force:
        raise ConfigError(f"{path}: already exists; --force replaces it")


def expect_writable(folder: Path) -> None:
    """Create ``folder``; raise ConfigError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def beside_weights(weights: Path, name: str) -> Path:
    """The run folder's ``name`` for ``run/weights/best.pt``, that in the folder of an exported
    model, for an address of the Hugging Face Hub ``runs/eval/<its name>``; else a folder beside
    the file."""
    from resdet.detection.engine.checkpoint import HUB_ADDRESS

    if address := HUB_ADDRESS.fullmatch(str(weights)):
        return Path("runs") / name / address[1].partition("/")[2]
    if weights.is_dir():  # an exported model
        return weights / name
    run_folder = weights.parent.parent if weights.parent.name == "weights" else weights.parent
    return run_folder / name


def expect_unused(folder: Path) -> None:
    """Raise ConfigError for the folder of a new run that has contents."""
    from resdet.detection.files import is_unused

    try:
        unused = is_unused(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be a run folder: {error.strerror}") from error
    if not unused:
        raise ConfigError(
            f"{folder}: not empty; give another --out, or --resume {folder} to continue it"
        )


def place(text: str) -> Path | str:
    """A path, or an address as it is."""
    return text if "://" in text else Path(text)
