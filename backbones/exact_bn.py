"""Exact mean and variance of the inputs of every batch norm over a data set.

Training leaves moving averages of the last few batches, made while the weights still changed.
"After pre-training, we compute the BN statistics (means and variances) for each layer on the
ImageNet training set" (ResNet paper, appendix A); the norms are then frozen.

The paper does not say what the layers *before* a norm use while its statistics are computed:

- ``pooled``: the statistics of the current batch, as in training ("precise BN"). One pass serves
  all layers. Each mean and variance is exact over all images and positions (a mean of the batches'
  variances would lack the variance between their means). The layers before a norm use the batch's
  statistics, so its inputs differ slightly from those in the frozen network: less with larger
  batches, not at all if one batch holds all the data. Images must come in random order.
- ``layered``: the frozen statistics. Each norm's input then has exactly mean 0 and variance 1 in
  the frozen network, whatever the batch size and the order. It takes a pass for each norm (20 for
  ResNet-18, 104 for ResNet-101), each stopped at its norm.

The variance is that of the population (divided by n, not n - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ..detection.errors import ConfigError, DataError

T = TypeVar("T")
Method = Literal["pooled", "layered"]

#: Values converted to float64 at a time (128 MB).
PART = 2**24
_NO_IMAGES = "no images to compute batch norm statistics on"


class Moments:
    """Mean and variance (C,) in float64 of all values added, in constant memory.

    Groups are merged by Chan, Golub and LeVeque's formula: E[x^2] - E[x]^2 would lose the variance
    of channels whose mean is large against it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        #: Sum of squared differences from the mean.
        self._squares = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """(N, C, ...) values; everything but C is pooled."""
        if values.numel() == 0:
            return
        images = max(1, PART // values[0].numel())
        for part in values.split(images):
            self._merge(part.double())

    def _merge(self, values: Tensor) -> None:
        count = values.numel() // values.shape[1]
        pooled = [axis for axis in range(values.dim()) if axis != 1]
        variance, mean = torch.var_mean(values, dim=pooled, correction=0)
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self._squares = (
            self._squares + variance * count + step.square() * (self.count * count / total)
        )
        self.count = total

    @property
    def variance(self) -> Tensor:
        """The population variance. Raises ValueError if nothing was added."""
        if self.count == 0:
            raise ValueError("no values were added")
        return self._squares / self.count


def exact_statistics(
    model: nn.Module,
    batches: Callable[[], Iterable[T]],
    run: Callable[[T], object],
    *,
    method: Method = "pooled",
) -> int:
    """Set ``running_mean`` and ``running_var`` of every batch norm; returns how many there are.

    ``batches()`` starts a pass over the data, ``run`` computes one batch with the model. Every
    pass must give the same images. Training and evaluation modes are restored.

    Raises:
        ConfigError: the model has no batch norm.
        DataError: there are no images, or a batch with one value per channel.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        raise ConfigError("the network has no batch norm whose statistics could be computed")
    with torch.no_grad(), _modes_kept(model):
        model.eval()
        if method == "pooled":
            _pooled(norms, batches(), run)
        else:
            _layered(norms, batches, run)
    return len(norms)


def passes(model: nn.Module, method: Method) -> int:
    """The number of passes of `exact_statistics` over the data."""
    if method == "pooled":
        return 1
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _pooled(norms: list[nn.BatchNorm2d], batches: Iterable[T], run: Callable[[T], object]) -> None:
    moments = {norm: Moments() for norm in norms}
    with _recording({norm: found.add for norm, found in moments.items()}):
        for batch in batches:
            _run_training(run, batch)
    for norm, found in moments.items():
        _store(norm, found)


def _run_training(run: Callable[[T], object], batch: T) -> None:
    try:
        run(batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            "a batch of one image, one pixel large at the last layer, has no variance: "
            "take another batch size"
        ) from error


def _layered(
    norms: list[nn.BatchNorm2d], batches: Callable[[], Iterable[T]], run: Callable[[T], object]
) -> None:
    for norm in _in_order(norms, batches(), run):
        moments = Moments()

        def take(values: Tensor, moments: Moments = moments) -> None:
            moments.add(values)
            raise _Reached

        with _recording({norm: take}):
            for batch in batches():
                with suppress(_Reached):
                    run(batch)
        _store(norm, moments)


def _in_order(
    norms: list[nn.BatchNorm2d], batches: Iterable[T], run: Callable[[T], object]
) -> list[nn.BatchNorm2d]:
    """The norms in the order of the forward pass: each one's input depends on those before only."""
    order: list[nn.BatchNorm2d] = []
    with _recording({norm: partial(_append, order, norm) for norm in norms}):
        for batch in islice(batches, 1):
            _run_training(run, batch)
    if not order:
        raise DataError(_NO_IMAGES)
    return order


def _append(order: list[nn.BatchNorm2d], norm: nn.BatchNorm2d, _: Tensor) -> None:
    order.append(norm)


class _Reached(Exception):
    """Ends the forward pass after the norm being measured."""


@contextmanager
def _recording(callbacks: Mapping[nn.BatchNorm2d, Callable[[Tensor], object]]) -> Iterator[None]:
    """The norms use batch statistics without updating their own; callbacks receive their inputs."""
    momenta = {norm: norm.momentum for norm in callbacks}
    handles = [
        norm.register_forward_pre_hook(lambda _, inputs, call=call: call(inputs[0]))
        for norm, call in callbacks.items()
    ]
    for norm in callbacks:
        norm.momentum = 0.0
        norm.train()
    try:
        yield
    finally:
        for handle, (norm, momentum) in zip(handles, momenta.items(), strict=True):
            handle.remove()
            norm.momentum = momentum
            norm.eval()


def _store(norm: nn.BatchNorm2d, moments: Moments) -> None:
    if moments.count == 0:
        raise DataError(_NO_IMAGES)
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101  narrows types
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(moments.variance)


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
