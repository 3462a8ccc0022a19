"""Which options do all tools share that take a config?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.detection.config.base import Section

AnyConfig = TypeVar("AnyConfig", bound="Section")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--cfg``, ``key=value`` overrides, ``--print-config`` and ``--dry-run``."""
    parser.add_argument(
        "--cfg",
        "--config",
        "--config-file",
        dest="cfg",
        metavar="FILE",
        required=required,
        help="config file, or the name of a shipped one, such as voc_r101.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values in place of the config's, such as train.lr=0.01 data.root=DIR",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the config in full and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, then stop before the work"
    )


def config_from_args(args: argparse.Namespace, schema: type[AnyConfig]) -> AnyConfig:
    """The config that ``--cfg`` and the overrides describe; raises ConfigError.

    Paths may be missing: see `missing_paths` in detection/config/files.py.
    """
    from resdet.detection.config.files import read_config

    if args.cfg is None:
        raise ConfigError("no config: give --cfg FILE, or the name of a shipped one")
    return read_config(schema, args.cfg, args.overrides)
