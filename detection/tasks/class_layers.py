"""How do weights that were trained on one list of classes serve another? By name.

K classes. Networks say in `ClassLayers` which of their layers belong to classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from ..config.base import Section
from ..errors import DataError

Config = TypeVar("Config", bound=Section)
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ClassLayers:
    """Layers whose rows belong to classes: the prefixes of their tensors.

    ``reorder(tensors, order)`` puts the rows in the order (K,) of old labels. ``anew`` says that
    they start from random weights.
    """

    prefixes: tuple[str, ...]
    reorder: Callable[[Tensors, Sequence[int]], dict[str, Tensor]]
    anew: str


@dataclass(frozen=True)
class Stored(Generic[Config]):
    """A network's weights from a file, with its configuration and class names."""

    tensors: Tensors
    config: Config
    classes: tuple[str, ...]

    def ordered_as(self, wanted: Sequence[str], layers: ClassLayers) -> Stored[Config]:
        """The same network with its classes, which must be those of ``wanted``, in that order."""
        if self.classes == tuple(wanted):
            return self
        tensors = layers.reorder(self.tensors, [self.classes.index(name) for name in wanted])
        return replace(self, tensors=tensors, classes=tuple(wanted))


@dataclass(frozen=True)
class Fitted:
    """Tensors for a list of classes; layers in ``missing`` have none. ``notes``: what was done."""

    tensors: Tensors
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit_classes(
    stored: Stored[Config],
    path: Path,
    wanted: Sequence[str],
    layers: ClassLayers,
    *,
    reset_head: bool,
) -> Fitted:
    """Weights to start a training on the classes ``wanted`` from.

    Another order is mapped. Other names are a `DataError` that names both lists, unless
    ``reset_head`` lets the class layers start anew.
    """
    if stored.classes == tuple(wanted):
        return Fitted(stored.tensors)
    if set(stored.classes) == set(wanted):
        notes = (f"classes of {path} reordered by name",)
        return Fitted(stored.ordered_as(wanted, layers).tensors, notes=notes)
    if not reset_head:
        difference = class_difference(str(path), stored.classes, "the data", wanted)
        raise DataError(f"{difference}; with --reset-head {layers.anew}")
    kept = {k: v for k, v in stored.tensors.items() if not k.startswith(layers.prefixes)}
    return Fitted(kept, layers.prefixes, (f"{layers.anew} (--reset-head)",))


def join_classes(
    stored: Stored[Config], path: Path, leader: Path, wanted: Sequence[str], layers: ClassLayers
) -> Stored[Config]:
    """A member of an ensemble with its classes in the order ``wanted`` of the ``leader``.

    Raises DataError where the two have other classes.
    """
    if set(stored.classes) != set(wanted):
        raise DataError(class_difference(str(path), stored.classes, str(leader), wanted))
    return stored.ordered_as(wanted, layers)


def class_difference(owner: str, stored: Sequence[str], other: str, wanted: Sequence[str]) -> str:
    """One line that names both class lists and what differs."""
    missing = sorted(set(wanted) - set(stored))
    extra = sorted(set(stored) - set(wanted))
    return (
        f"{owner} knows the classes {list(stored)}, {other} {list(wanted)}: "
        f"lacking {missing}, too many {extra}"
    )
