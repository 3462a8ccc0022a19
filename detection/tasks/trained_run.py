"""What a training leaves: the folder of a run, its weights and its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.checkpoint import load_checkpoint
from ..engine.history import read_history


@dataclass(frozen=True)
class TrainedRun:
    """A run in ``folder`` after ``steps`` steps.

    ``exit_code`` is that of the command: 0, or 128 + the signal that stopped it, after a saved
    checkpoint. The metrics are read from the folder when they are asked for.
    """

    folder: Path
    steps: int
    exit_code: int = 0

    @property
    def stopped(self) -> bool:
        """Whether a signal, such as Ctrl-C, ended it: ``resume`` continues it."""
        return self.exit_code != 0

    @property
    def weights(self) -> Path:
        """``best.pt``, for `resdet.load`; the last weights where nothing was validated."""
        return self.folder / "weights" / "best.pt"

    @property
    def evaluations(self) -> dict[int, Mapping[str, float]]:
        """The metrics of each evaluation by its step, in order; {} without validation images."""
        return {entry.step: entry.values for entry in read_history(self.folder).of("eval")}

    @property
    def metrics(self) -> Mapping[str, float]:
        """Those of the last evaluation."""
        return next(reversed(self.evaluations.values()), {})

    @property
    def best_metrics(self) -> Mapping[str, float]:
        """Those of the evaluation that chose `weights`; raises WeightsError without them."""
        return self.evaluations.get(load_checkpoint(self.weights)["step"], {})
