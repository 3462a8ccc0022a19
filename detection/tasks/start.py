"""The checkpoint that a training run starts from, and what it takes from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..engine.forking import fitting
from ..errors import ConfigError, WeightsError
from .base import Loaded
from .checkpoints import Checkpoint, load_trained


@dataclass(frozen=True)
class Start:
    """The ``checkpoint`` that a run starts from in place of the weights its configuration names.

    ``resume`` continues with its optimizer and step; else its weights are taken and, with
    ``train.start_optimizer``, its momentum; ``reset_head`` allows other classes than it was trained
    on.
    """

    checkpoint: Checkpoint | None = None
    resume: bool = False
    reset_head: bool = False

    @property
    def resumed(self) -> Checkpoint | None:
        """The checkpoint to resume; raises WeightsError where it lacks the optimizer's state."""
        if not (self.checkpoint and self.resume):
            return None
        if "optimizer" not in self.checkpoint.state:
            raise WeightsError(
                f"{self.checkpoint.path}: holds weights without the optimizer's state: --resume "
                "needs last.pt, --weights starts a new run from it"
            )
        return self.checkpoint

    def expect_steps(self, config: Any) -> None:
        """Raise ConfigError where a resumed run has done more steps than ``config``, which is one
        of `with_iterations`, asks for."""
        if not (resumed := self.resumed):
            return
        done, asked = resumed.state["step"], config.train.iterations
        if asked < done:
            epochs = config.train.epochs
            setting = f"train.iterations={asked}"
            if epochs is not None:
                setting = f"train.epochs={epochs:g}, {asked} steps"
            raise ConfigError(
                f"{setting}: {resumed.path} has done {done} steps already; nothing "
                f"is changed. Ask for more than {done} to go on, or start a new run with fewer"
            )


#: A new run with the weights that its configuration names.
FRESH = Start()


def start_weights(
    loaded: Loaded, checkpoint: Checkpoint, reset_head: bool
) -> tuple[list[str], dict[str, Tensor]]:
    """Load the weights of ``checkpoint`` into a new network; returns lines for the log and, with
    ``train.start_optimizer``, the momentum of each parameter that fits. Raises as `load_trained`.
    """
    if not loaded.config.train.start_optimizer:
        return load_trained(loaded, checkpoint, reset_head=reset_head), {}
    checkpoint, found = checkpoint.with_momenta()
    notes = load_trained(loaded, checkpoint, reset_head=reset_head)
    if not found:
        return [*notes, f"{checkpoint.path}: has no optimizer state: momentum starts at zero"], {}
    momenta = fitting(found, loaded.model)
    if checkpoint.classes != loaded.classes:  # other rows
        layers = tuple(checkpoint.task.class_layers)
        momenta = {name: each for name, each in momenta.items() if not name.startswith(layers)}
    trained = sum(parameter.requires_grad for parameter in loaded.model.parameters())
    return [*notes, f"optimizer: momentum of {len(momenta)} of {trained} parameters"], momenta
