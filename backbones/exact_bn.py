"""What are the true mean and variance of every batch norm's input over a data set?

Training leaves moving averages behind, of the last few batches and of weights that were still
changing. "After pre-training, we compute the BN statistics (means and variances) for each layer on
the ImageNet training set" (ResNet paper, appendix A); the norms are then fixed.

The paper does not say what the layers *before* a norm use while its statistics are taken:

- ``pooled``: the statistics of their own batch, as in training. One pass over the data serves all
  layers, and is what "precise BN" means elsewhere. Each layer's mean and variance are exact for the
  inputs it got, over all images and positions at once (a mean of the batches' variances would
  lack the variance between their means). But those inputs are not quite the ones that the fixed
  network will give it: they differ by how far a batch's statistics are from the data set's, which
  shrinks as batches grow and is nothing when one batch holds all the data. Images must be in
  random order: batches of one class each have other statistics.
- ``layered``: the fixed statistics that they will have afterwards. Each norm's input then has
  exactly mean 0 and variance 1 in the finished network, whatever the batch size and the order of
  the images. It costs a pass for each norm (20 for ResNet-18, 104 for ResNet-101), each stopped
  at its norm, so about half as many whole ones.

The variance is that of the population (divided by n, not n - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ..detection.errors import ConfigError, DataError

T = TypeVar("T")
Method = Literal["pooled", "layered"]

#: Activations become float64 so many numbers at a time (128 MB).
PART = 2**24
_NO_IMAGES = "no images to compute batch norm statistics on"


class Moments:
    """Mean and variance (C,) in float64 of all that was added, in constant memory.

    Groups are merged by Chan, Golub and LeVeque's formula: E[x^2] - E[x]^2 would lose the variance
    of channels whose mean is large against it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        #: Sum of squared differences from the mean.
        self._deviations = torch.zeros((), dtype=torch.float64)

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
        self._deviations = (
            self._deviations + variance * count + step.square() * (self.count * count / total)
        )
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Of the population. Raises ValueError where nothing was added."""
        if self.count == 0:
            raise ValueError("no values were added")
        return self._deviations / self.count


def exact_statistics(
    model: nn.Module,
    batches: Callable[[], Iterable[T]],
    run: Callable[[T], object],
    *,
    method: Method = "pooled",
) -> int:
    """Set ``running_mean`` and ``running_var`` of every batch norm; returns how many there are.

    ``batches()`` starts a pass over the data, ``run`` pushes one batch through the model. Every
    pass must give the same images. Modes are as before afterwards.

    Raises:
        ConfigError: the model has no batch norm.
        DataError: there are no images, or a batch that no batch statistics can be taken of.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        raise ConfigError("the network has no batch norm whose statistics could be computed")
    with torch.no_grad(), _as_before(model):
        model.eval()
        if method == "pooled":
            _pooled(norms, batches(), run)
        else:
            _layered(norms, batches, run)
    return len(norms)


def passes(model: nn.Module, method: Method) -> int:
    """How often `exact_statistics` goes over the data."""
    if method == "pooled":
        return 1
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _pooled(norms: list[nn.BatchNorm2d], batches: Iterable[T], run: Callable[[T], object]) -> None:
    moments = {norm: Moments() for norm in norms}
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_listening(norm, moments[norm].add))
        for batch in batches:
            _run_training(run, batch)
    for norm in norms:
        _store(norm, moments[norm])


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

        with _listening(norm, take):
            for batch in batches():
                with _until_reached():
                    run(batch)
        _store(norm, moments)


def _in_order(
    norms: list[nn.BatchNorm2d], batches: Iterable[T], run: Callable[[T], object]
) -> list[nn.BatchNorm2d]:
    """The norms as the forward pass meets them: each one's input depends on those before only."""
    order: list[nn.BatchNorm2d] = []
    with ExitStack() as stack:
        for norm in norms:

            def note(_: Tensor, norm: nn.BatchNorm2d = norm) -> None:
                order.append(norm)

            stack.enter_context(_listening(norm, note))
        for batch in batches:
            _run_training(run, batch)
            break
    if not order:
        raise DataError(_NO_IMAGES)
    return order


class _Reached(Exception):
    """The forward pass is as far as it is needed."""


@contextmanager
def _until_reached() -> Iterator[None]:
    try:
        yield
    except _Reached:
        return


@contextmanager
def _listening(norm: nn.BatchNorm2d, hear: Callable[[Tensor], object]) -> Iterator[None]:
    """``norm`` uses batch statistics, leaves its own alone, and ``hear`` gets its inputs."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hear(inputs[0])

    handle = norm.register_forward_pre_hook(hook)
    momentum, norm.momentum = norm.momentum, 0.0
    norm.train()
    try:
        yield
    finally:
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
def _as_before(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
