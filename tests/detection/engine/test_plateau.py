"""The plateau schedule, also after a resume."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.distributed import Group
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.signals import StopRequest
from resdet.detection.engine.state import Outputs, TrainingState
from resdet.detection.engine.train import train
from resdet.detection.structures import Batch, Sample

ALONE = Group(0, 1, torch.device("cpu"))


class Line(torch.nn.Linear):
    """A loss, and a number that is only measured: minimising it would make the loss infinite."""

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        answer = super().forward(batch.images.float().mean((2, 3)))
        return {"loss_cls": answer.square().mean(), "top1_error": -1e30 * answer.square().mean()}


def rates(metrics: Sequence[float], folder: Path, *, plateau: int) -> tuple[list[float], Line]:
    """The learning rate of each step, with an evaluation after each."""
    torch.manual_seed(0)
    model = Line(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    settings = TrainConfig(
        iterations=len(metrics),
        accumulate=1,
        precision="fp32",
        clip_norm=None,
        log_every=1,
        eval_every=1,
        checkpoint_every=100,
        patience=None,
        max_nonfinite=1,
        lr=0.1,
        warmup_iterations=0,
        schedule="step" if plateau is None else "plateau",
        plateau_evaluations=plateau or 1,
        gamma=0.5,
    )
    used: list[float] = []

    def evaluate(step: int) -> float:
        used.append(optimizer.param_groups[0]["lr"])
        return metrics[step - 1]

    pixels = torch.ones(4, 4, 3, dtype=torch.uint8)
    batch = Batch.collate([Sample(pixels, label=0)], pad=False)
    outputs = Outputs(folder, RunLog(None), {"config": {}, "classes": []})
    train(
        state,
        itertools.repeat(batch),
        settings=settings,
        outputs=outputs,
        group=ALONE,
        evaluate=evaluate,
        stop=StopRequest(),
    )
    return used, model


@pytest.mark.parametrize(
    ("metrics", "plateau", "expected"),
    [
        # Two evaluations as good as the best are a plateau; the count restarts after a drop.
        ((0.5, 0.5, 0.4, 0.4, 0.4, 0.4), 2, (0.1, 0.1, 0.1, 0.05, 0.05, 0.025)),
        # A better one in between restarts it as well.
        ((0.5, 0.4, 0.6, 0.5, 0.7, 0.1), 2, (0.1,) * 6),
        ((0.5, 0.4, 0.6, 0.5, 0.5, 0.5), 1, (0.1, 0.1, 0.05, 0.05, 0.025, 0.0125)),
    ],
)
def test_the_rate_drops_on_a_plateau(
    metrics: Sequence[float], plateau: int, expected: Sequence[float], tmp_path: Path
) -> None:
    used, _ = rates(metrics, tmp_path, plateau=plateau)
    assert used == pytest.approx(expected)


def test_what_is_only_measured_is_not_minimised(tmp_path: Path) -> None:
    _, model = rates((0.1, 0.2, 0.3), tmp_path, plateau=9)
    assert all(weights.abs().max() < 10 for weights in model.parameters())


def test_a_plateau_has_no_milestones() -> None:
    with pytest.raises(ValueError, match="plateau has no milestones"):
        TrainConfig(schedule="plateau", milestones=(10,))
