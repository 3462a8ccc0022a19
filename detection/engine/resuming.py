"""What a checkpoint must hold for a training run to resume from it, beside the weights.

Each check raises ValueError, naming the entry that is missing or has another kind or shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import quoted

#: Larger counts are of no run.
_LARGEST = 2**53
#: Settings of SGD that all versions of PyTorch save.
_SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


def entry(state: Mapping[str, Any], name: str, kind: type) -> Any:
    """The entry ``name``, which is of ``kind``."""
    if name not in state:
        raise ValueError(f"its {name} is missing")
    if not isinstance(state[name], kind):
        raise ValueError(f"its {name} is {quoted(state[name])}")
    return state[name]


def expect_counters(
    state: Mapping[str, Any],
    own: Mapping[str, Any],
    names: Iterable[str],
    *,
    optional: Iterable[str] = (),
) -> None:
    """The entries of ``names``, and those of ``optional`` that are there, are of the kind of
    ``own``: a whole number from 0 on, a flag, or any number."""
    for name in (*names, *(name for name in optional if name in state)):
        value, kind = entry(state, name, object), type(own[name])
        whole = type(value) is int and 0 <= value < _LARGEST
        number = type(value) is float and not math.isnan(value)
        fits = {bool: type(value) is bool, int: whole, float: whole or number}
        if not fits[kind]:
            raise ValueError(f"its {name} is {quoted(value)}")


def expect_scaler(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """The loss scale and its counters; none unless trained in fp16."""
    found = entry(state, "scaler", dict)
    for name, value in own.items() if found else ():
        _expect_number(found.get(name), f"scaler.{name}")
        if isinstance(value, int) and not isinstance(found[name], int):
            raise ValueError(f"its scaler.{name} is {quoted(found[name])}")


def expect_optimizer(state: Mapping[str, Any], own: torch.optim.Optimizer) -> None:
    """The groups of ``own`` with plain settings, and momenta with the shapes of its parameters."""
    optimizer = entry(state, "optimizer", dict)
    groups, ours = entry(optimizer, "param_groups", list), own.state_dict()["param_groups"]
    if len(groups) != len(ours):
        raise ValueError(f"its optimizer has {len(groups)} groups of parameters, not {len(ours)}")
    for group, our in zip(groups, ours, strict=True):
        if not isinstance(group, dict) or group.get("params") != our["params"]:
            raise ValueError("its optimizer has other parameters")
        for name in _SETTINGS:
            entry(group, name, object)
        for name, value in group.items():
            if name not in our:
                raise ValueError(f"its optimizer has a setting {quoted(name)}")
            if type(our[name]) in (int, float):
                _expect_number(value, f"optimizer.{name}")
            elif name != "params" and value is not None and not isinstance(value, bool):
                raise ValueError(f"its optimizer.{name} is {quoted(value)}")
    weights = [weight for group in own.param_groups for weight in group["params"]]
    for index, buffers in entry(optimizer, "state", dict).items():
        if type(index) is not int or not 0 <= index < len(weights):
            raise ValueError(f"its optimizer has a parameter {quoted(index)}")
        if not isinstance(buffers, dict) or buffers.keys() != {"momentum_buffer"}:
            raise ValueError(f"its optimizer has {quoted(buffers)} for parameter {index}")
        if buffers["momentum_buffer"] is not None:
            expect_tensors(buffers, {"momentum_buffer": weights[index]}, f"parameter {index}:")


def expect_meter(state: Mapping[str, Any]) -> None:
    """Sums of losses, one number each, over a number of steps."""
    meter = entry(state, "meter", dict)
    sums, steps = entry(meter, "sums", dict), entry(meter, "steps", int)
    if not min(1, len(sums)) <= steps < _LARGEST:
        raise ValueError(f"its meter has {len(sums)} sums of {quoted(steps)} steps")
    for name, value in sums.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.dim():
            raise ValueError(f"its meter has {quoted(value)} for {quoted(name)}")


def expect_tensors(found: Mapping[str, Any], own: Mapping[str, Tensor], what: str) -> None:
    """A tensor of the shape and kind of each of ``own``."""
    for name, tensor in own.items():
        value = found.get(name)
        if (
            not isinstance(value, Tensor)
            or value.shape != tensor.shape
            or value.is_floating_point() != tensor.is_floating_point()
        ):
            shape = f"{tuple(value.shape)}" if isinstance(value, Tensor) else quoted(value)
            raise ValueError(f"its {what} {name} is {shape}, not {tuple(tensor.shape)}")


def _expect_number(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
        raise ValueError(f"its {name} is {quoted(value)}")
