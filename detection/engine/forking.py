"""Runs that start from another run: the command, the settings that continue its schedule, and the
momentum of its optimizer."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..config.base import TrainConfig
from .optim import learning_rate, make_sgd
from .resuming import expect_optimizer

#: Settings that a shifted schedule replaces.
SCHEDULE = ("train.iterations", "train.epochs", "train.milestones")


def fork_command(command: str, start: Path, settings: Iterable[str]) -> str:
    """The command of a new run with ``settings`` from ``start``, a run folder or its checkpoint."""
    run = start.parent.parent if start.suffix == ".pt" else start
    words = [*command.split(), "--from", str(start), "--out", str(folder_beside(run)), *settings]
    return shlex.join(words)


def folder_beside(run: Path) -> Path:
    """``runs/a-2`` for ``runs/a``, or the first of the next numbers that is free."""
    names = (run.with_name(f"{run.resolve().name}-{number}") for number in count(2))
    return next(path for path in names if not path.exists())


def schedule_left(train: Mapping[str, Any], step: int, drops: int = 0) -> list[str]:
    """The rest of the schedule of ``train``, a config's section, after ``step`` steps, as settings
    of a new run; none where nothing is left. ``drops`` are those of a plateau."""
    left = train["iterations"] - step if train else 0
    if left <= 0:
        return []
    milestones = [m - step for m in train["milestones"] if m > step]
    one = {"warmup_iterations": 0, "batch_size": 1, "base_batch_size": 1}
    base = TrainConfig.model_construct(**{**TrainConfig().model_dump(), **train, **one})
    rate = learning_rate(step, base) * base.gamma**drops
    settings = [f"train.iterations={left}"]
    if train["milestones"]:
        settings.append(f"train.milestones={milestones}".replace(" ", ""))
    if rate != train["lr"] and rate > 0:
        settings.append(f"train.lr={rate:g}")
    if 0 < train.get("warmup_iterations", 0) <= step:
        settings.append("train.warmup_iterations=0")
    return settings


def continued(
    given: Sequence[str], train: Mapping[str, Any], step: int, drops: int = 0
) -> list[str]:
    """The settings ``given`` for the whole run of ``train``, for the rest of it in a new run."""
    rest = schedule_left(train, step, drops)
    names = {word.partition("=")[0] for word in given}
    kept = [word for word in given if not rest or not word.startswith(SCHEDULE)]
    return [*kept, *(w for w in rest if w.startswith(SCHEDULE) or w.partition("=")[0] not in names)]


def momenta(
    state: Mapping[str, Any], before: nn.Module, settings: TrainConfig
) -> dict[str, Tensor]:
    """{parameter: momentum} in ``state``, a checkpoint of the network ``before``, which was trained
    with ``settings``; raises ValueError where the state does not fit."""
    optimizer = make_sgd(before, settings)
    expect_optimizer(state, optimizer)
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    weights = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    buffers = {weights[i]: s["momentum_buffer"] for i, s in state["optimizer"]["state"].items()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def fitting(found: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Those of ``found`` that have the shape of a trained parameter of ``model``."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {n: t for n, t in found.items() if n in own and t.shape == own[n].shape}


def describe_schedule_change(
    before: TrainConfig, after: TrainConfig, step: int, drops: int
) -> list[str]:
    """What other iterations and milestones do to a run that is resumed after ``step`` steps."""
    changed = [
        f"train.{name} {list(old) if name == 'milestones' else old} -> "
        f"{list(new) if name == 'milestones' else new}"
        for name in ("iterations", "milestones")
        if (old := getattr(before, name)) != (new := getattr(after, name))
    ]
    if not changed:
        return []
    old, new = (
        learning_rate(step, each) * each.gamma**drops if step < each.iterations else None
        for each in (before, after)
    )
    if new is None:
        return [f"schedule: {', '.join(changed)}; no steps are left"]
    was = "the run had ended" if old is None else f"it was {old:g}"
    rates = f"the learning rate of step {step + 1} is {new:g} ({was})"
    if after.schedule == "cosine" and old != new:
        rates += "; the weights up to here were trained with the shorter or longer cosine"
    return [f"schedule {after.schedule}: {', '.join(changed)}; {rates}"]
