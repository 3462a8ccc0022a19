"""The learning-rate range test of a config, in any task."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from ..engine.distributed import Group
from ..engine.gpu_settings import gpu_settings
from ..engine.log import RunLog
from ..engine.range_test import RangeTest, rising_rates, run_range_test
from .training import Training

#: The setting whose values are tested; the rate in use is this x batch_size / base_batch_size.
TESTED = "train.lr"


def for_range_test(config: Any, steps: int, weights: Path | None) -> Any:
    """``config`` for a training of ``steps`` steps, from ``weights`` if they are given."""
    update: dict[str, Any] = {"iterations": steps, "epochs": None, "ema_decay": None}
    if weights is not None:
        update["start_from"] = weights.absolute()
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def find_rate(
    training: Training, lowest: float, highest: float, steps: int, group: Group
) -> RangeTest:
    """Train with values of ``train.lr`` that rise from ``lowest`` to ``highest``; the rates of the
    result are these values. Leaves no files. Raises as `run_range_test`."""
    task, loaded, settings = training.task, training.loaded, training.settings
    state = training.initial_state(group)
    values = rising_rates(lowest, highest, steps)
    scale = settings.batch_size / settings.base_batch_size
    with (
        TemporaryDirectory(prefix="resdet-find-lr-") as folder,
        gpu_settings(settings, group.device, fixed_size=task.fixed_size),
    ):
        prepared = task.prepare(training, Path(folder), group, RunLog(None))
        batches = task.train_batches(
            loaded.config, training.splits["train"], prepared, state.step, group
        )
        rates = [value * scale for value in values]
        progress = Console(stderr=True)
        test = run_range_test(state, batches, rates, settings, group, progress)
    return RangeTest(values, test.losses, test.diverged)
