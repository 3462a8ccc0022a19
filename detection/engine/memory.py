"""What to do where a device's memory does not hold a training step or an evaluation.

The messages name settings with values that need less, and commands that can be run as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import ConfigError
from ..structures import Batch
from .forking import fork_command, schedule_left
from .state import Outputs, TrainingState


def step_advice(
    parts: Sequence[Batch], state: TrainingState, outputs: Outputs, device: torch.device
) -> str:
    """The message for a training step whose passes, ``parts``, were too large."""
    largest = max(parts, key=lambda batch: batch.images.numel())
    height, width = largest.images.shape[2:]
    objects = ""
    if not len(largest.labels):  # detection
        most = max(len(annotation) for batch in parts for annotation in batch.annotations)
        objects = f" and up to {most} objects"
    config = outputs.identity["config"]
    ways = smaller_steps(parts, config)
    begin = (
        f"{device} is out of memory in step {state.step + 1} with {len(largest)} image(s) of "
        f"{width}x{height}{objects} at once; "
    )
    return begin + _ways_on(ways, state, outputs, _smaller(config, max(height, width)))


def smaller_steps(parts: Sequence[Batch], config: Mapping[str, Any]) -> list[str]:
    """The settings with which the same step, whose passes are ``parts``, needs less memory."""
    ways = [f"train.accumulate={k} (the same images in smaller passes)" for k in _passes(parts)]
    return ways + ["train.precision=bf16"] * (_at(config, "train", "precision") == "fp32")


def evaluation_advice(state: TrainingState, outputs: Outputs, device: torch.device) -> str:
    """The message for an evaluation during training."""
    config = outputs.identity["config"]
    ways = _evaluating_less(config)
    if _at(config, "train", "val_loss_batches"):
        ways.append("train.val_loss_batches=0")
    begin = f"{device} is out of memory in the evaluation at step {state.step}; "
    last = shlex.quote(str(outputs.last))
    elsewhere = f"; on a CPU: resdet eval --weights {last} --device cpu"
    return begin + _ways_on(ways, state, outputs, []) + elsewhere


@contextmanager
def evaluation_fits(config: Mapping[str, Any], device: torch.device) -> Iterator[None]:
    """Within the context an exhausted memory is a ConfigError that names what needs less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        test = [f"test.{name}={value}" for name, value in _costly(config)]
        ways = ", ".join([*_evaluating_less(config), *test, "or --device cpu"])
        raise ConfigError(
            f"{device} is out of memory in the evaluation; the same command runs with less if one "
            f"of these is added to it: {ways}"
        ) from error


def _ways_on(
    ways: Sequence[str], state: TrainingState, outputs: Outputs, smaller: Sequence[str]
) -> str:
    """How the run goes on with one of ``ways``, and how a new one starts from its weights."""
    if not outputs.last.exists():
        return f"start again in another folder with {' or '.join([*ways, *smaller])}"
    run = shlex.quote(str(outputs.folder))
    resume = f"continue with: {outputs.command} --resume {run} " if ways else ""
    text = resume + ", or ".join(ways)
    if smaller:
        text += "; " if ways else ""
        train = outputs.identity["config"].get("train", {})
        left = schedule_left(train, state.step, state.drops)
        command = fork_command(outputs.command, outputs.folder, [*smaller, *left])
        text += f"start a new run from it with: {command}"
    return text


def _passes(parts: Sequence[Batch]) -> list[int]:
    """The next number of passes that divides the images of this process; none for one a pass."""
    images = sum(map(len, parts))
    return [k for k in range(len(parts) + 1, images + 1) if images % k == 0][:1]


def _smaller(config: Mapping[str, Any], side: int) -> list[str]:
    """Settings of another network input, for a new run; ``side`` px is the longest now."""
    if regions := _at(config, "roi", "batch_per_image"):
        return [f"image.long_side_max={side * 3 // 4}", f"roi.batch_per_image={regions // 2 or 1}"]
    section = "region" if "region" in config else "crop"
    return [f"{section}.size={side * 3 // 4}"] if section in config else []


def _evaluating_less(config: Mapping[str, Any]) -> list[str]:
    at_once = _at(config, "test", "batch_size") or 1
    ways = [f"test.batch_size={at_once // 2}"] if at_once > 1 else []
    return ways + (["test.precision=bf16"] if _at(config, "test", "precision") == "fp32" else [])


def _costly(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of testing that may be turned off or down, with their cheaper values."""
    test = config.get("test", {})
    off = {"flip": "false", "scales": "[]", "pyramid": "[]"}
    found = [(name, value) for name, value in off.items() if test.get(name)]
    protocol = test.get("protocol")
    if protocol in ("ten_crop", "multi_scale"):
        found.append(("protocol", "one_crop"))
    return [*found, ("protocol", "centre")] if protocol == "dense" else found


def _at(config: Mapping[str, Any], section: str, name: str) -> Any:
    return config.get(section, {}).get(name)
