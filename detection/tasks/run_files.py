"""The files of a run folder that are there before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.files import dump_config
from ..environment import describe_environment
from ..errors import ConfigError
from ..files import write_file
from .held_out import write_list

if TYPE_CHECKING:
    from .training import Training


def write_run_files(training: Training, folder: Path) -> None:
    """Write the configuration, the environment and the findings in the data."""
    config, path = training.loaded.config, folder / "config.yaml"
    try:
        write_file(path, dump_config(config))
        environment = json.dumps(describe_environment(), indent=1)
        write_list(training.splits, config, folder)
        write_file(folder / "env.json", environment)
        report = training.task.data_report(config, training.splits, path)
        write_file(folder / "data_report.json", report)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{error.filename or folder}: cannot be written: {reason}") from error
