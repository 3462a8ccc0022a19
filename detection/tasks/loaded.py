"""A trained network with what belongs to it: `Loaded`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import nn

from ..config.base import Section
from .named_paths import NamedPaths

Model = TypeVar("Model", bound=nn.Module)
Config = TypeVar("Config", bound=Section)


@dataclass(frozen=True)
class Loaded(Generic[Model, Config]):
    """A network with its configuration and class names, in label order; an ensemble is a sequence
    of them, with the classes of all in the order of the first one's."""

    model: Model
    config: Config
    classes: tuple[str, ...]
    own: Config | None = None  # the configuration in its file, from which ``config`` may differ
    named: NamedPaths = field(default_factory=NamedPaths)  # what must not be opened
    held_out: tuple[str, ...] | None = None  # images, by ``data.val.fraction``
