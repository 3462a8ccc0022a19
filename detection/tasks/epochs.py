"""The steps of an epoch, and of a training whose length is given in epochs."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from ..config.base import TrainConfig
from ..errors import ConfigError

MOST_STEPS = 10**9  # of ``train.iterations``


def steps_per_epoch(settings: TrainConfig, images: int) -> int:
    """The batches over all processes that have every image once; the last one is filled up."""
    return -(-images // settings.batch_size)


def with_iterations(config: Any, images: int) -> Any:
    """``config`` with the ``train.iterations`` of its ``train.epochs``, rounded up, if it has them;
    ``images`` is the number of training images. Raises ConfigError for too many steps."""
    settings = config.train
    if settings.epochs is None:
        return config
    # The decimal number that was written: 1.1 x 10 is 11, and 11.000000000000002 as a float.
    epochs, each = Fraction(repr(settings.epochs)), steps_per_epoch(settings, images)
    steps = math.ceil(epochs * each)
    if steps > MOST_STEPS:
        raise ConfigError(
            f"train.epochs={settings.epochs:g}: {steps} steps of {settings.batch_size} images; at "
            f"most {MOST_STEPS} are possible"
        )
    train = settings.model_copy(update={"iterations": steps})
    return config.model_copy(update={"train": train})
