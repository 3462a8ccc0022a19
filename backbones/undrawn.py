"""Networks without random weights: those that are loaded next, and those of shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
    }
)


class Undrawn(TorchFunctionMode):
    """Within the context, parameters keep what their memory holds instead of random values.

    Drawing takes longer than loading, and on the meta device it imports torch's compiler.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if function in _DRAWS:
            return args[0] if args else given["tensor"]
        return function(*args, **given)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within the context, networks are built on the meta device, without memory."""
    with torch.device("meta"), Undrawn():
        yield
