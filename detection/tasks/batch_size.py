"""``train.batch_size: auto`` in any task: where it is refused, and the number that is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config.base import AUTO
from ..engine.batch_search import SHARE, largest_batch, repeated, step_fits
from ..engine.distributed import Group
from ..errors import ConfigError
from .base import Task

if TYPE_CHECKING:
    from .training import Training


def is_auto(config: Any) -> bool:
    """Whether the batch size is not known yet."""
    return bool(config.train.batch_size == AUTO)


def with_batch_size(config: Any, images: int) -> Any:
    """``config`` with this ``train.batch_size``."""
    return config.model_copy(
        update={"train": config.train.model_copy(update={"batch_size": images})}
    )


def unit_of(config: Any) -> int:
    """The batch sizes that can be divided are the multiples of this number."""
    lanes = getattr(getattr(config.data, "source", None), "lanes", 1)
    return math.lcm(config.train.accumulate, lanes)


def expect_number(config: Any) -> None:
    """Raise ConfigError for ``auto``, where nothing looks for a number."""
    if is_auto(config):
        raise ConfigError("train.batch_size=auto is for the training commands; give a number")


def expect_a_gpu(task: Task, group: Group) -> None:
    """Raise ConfigError where the number cannot be measured."""
    auto = "train.batch_size=auto"
    if group.device.type != "cuda":
        raise ConfigError(
            f"{auto} measures what fits the memory of a GPU; on {group.device} give a number"
        )
    if group.world > 1:
        raise ConfigError(
            f"{auto} measures one GPU; for {group.world} processes give a number, "
            f"{group.world} times that of one"
        )
    if type(task).prepare is not Task.prepare:
        raise ConfigError(
            f"{auto}: the images of {task.noun} are made when training starts; give a number"
        )


def found_batch_size(training: Training, group: Group) -> tuple[int, str]:
    """The largest ``train.batch_size`` that fits, at most the number of training images, and a line
    about it; the network is as before. Raises ConfigError if not even the smallest fits, or as
    `expect_a_gpu`."""
    expect_a_gpu(training.task, group)
    config, settings = training.loaded.config, training.settings
    split = training.splits["train"]
    sample = training.task.first_batch(config, split, None)
    weights = {
        name: tensor.to("cpu", copy=True)
        for name, tensor in training.loaded.model.state_dict().items()
    }
    state = training.initial_state(group)
    size = None
    if training.task.by_shape:  # batches are padded
        size = (max(config.image.short_side_train), config.image.long_side_max)

    def fits(images: int) -> bool:
        batch = repeated(sample, images // settings.accumulate, size)
        return step_fits(state, batch, settings, group)

    unit = unit_of(config)
    images = search(fits, unit, max(len(split.records), unit))
    training.loaded.model.load_state_dict(weights)
    return images, f"train.batch_size=auto: {images} images fit {SHARE:.0%} of the memory"


def search(fits: Callable[[int], bool], unit: int, most: int) -> int:
    """`largest_batch`; raises ConfigError where not even ``unit`` images fit."""
    images = largest_batch(fits, most, unit)
    if not images:
        raise ConfigError(
            f"train.batch_size=auto: not even {unit} image(s) fit the memory of the GPU; try "
            "smaller images or crops, or train.precision=bf16"
        )
    return images
