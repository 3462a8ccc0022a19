"""Trackers: programs that get the scalars of a run, besides the files in its folder.

Their libraries are extras, imported when a run starts. MLflow and Weights & Biases stay on this
machine unless their own environment variables name a server. `RunLog` outlives their failures.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .extras import require_extra

#: The name of a project or an experiment.
PROJECT = "resdet"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run: its folder, the step it starts at, its config by section
    and key."""

    folder: Path
    start_step: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name. A resumed run is one of its own: what was sent cannot be undone."""
        resumed = f" from step {self.start_step}" if self.start_step else ""
        return self.folder.absolute().name + resumed

    @property
    def settings(self) -> dict[str, str]:
        """{``section.key``: value as JSON}."""
        return {
            f"{section}.{key}": json.dumps(value, ensure_ascii=False)
            for section, content in self.config.items()
            if isinstance(content, Mapping)
            for key, value in content.items()
        }


class Tracker(Protocol):
    """Gets the values of training steps and evaluations, in the order of the steps."""

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """``kind`` is ``train`` or ``eval``."""

    def close(self) -> None:
        """Write what is left; no call follows."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run; a resumed run hides what it repeats."""

    def __init__(self, run: TrackedRun) -> None:
        require_extra("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        purged = run.start_step + 1 if run.start_step else None
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purged)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run in ``mlflow.db`` of the run folder, or where MLFLOW_TRACKING_URI says."""

    #: MLflow takes no more parameters at once, and no longer ones.
    AT_ONCE, LONGEST = 100, 500

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        require_extra("mlflow")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        own = f"sqlite:///{run.folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or own)
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(key, value[: self.LONGEST]) for key, value in run.settings.items()]
        for first in range(0, len(params), self.AT_ONCE):
            self._client.log_batch(self._run, params=params[first : first + self.AT_ONCE])

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in _finite(kind, values).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """An offline run in ``wandb/`` of the run folder, or as WANDB_MODE says."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        require_extra("wandb")
        import wandb

        quiet = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.config),
            settings=quiet,
        )

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log(_finite(kind, values), step=step)

    def close(self) -> None:
        self._run.finish()


def _finite(kind: str, values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers, as ``kind/name``."""
    return {f"{kind}/{name}": value for name, value in values.items() if math.isfinite(value)}


#: By the name in ``train.trackers``. To add a tracker, add its class and its line here.
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
