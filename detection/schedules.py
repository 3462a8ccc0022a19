"""Learning-rate schedules by the name that ``train.schedule`` gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

#: ``schedule(step, total, milestones, gamma)``: the factor of the learning rate at ``step`` (from
#: 0) of ``total``. A pure function: resuming needs no scheduler state.
Factor = Callable[[int, int, Sequence[int], float], float]


def multi_step(step: int, total: int, milestones: Sequence[int], gamma: float) -> float:
    """``gamma`` at every milestone passed."""
    return gamma ** sum(step >= milestone for milestone in milestones)


def constant(step: int, total: int, milestones: Sequence[int], gamma: float) -> float:
    """1: the training loop drops the rate on a plateau, which depends on the evaluations."""
    return 1.0


def cosine(step: int, total: int, milestones: Sequence[int], gamma: float) -> float:
    """Half a cosine from 1 down to 0 at ``total``."""
    return 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))


#: To add a schedule, add its function and its line here.
SCHEDULES: dict[str, Factor] = {
    "step": multi_step,
    "plateau": constant,
    "cosine": cosine,
}
