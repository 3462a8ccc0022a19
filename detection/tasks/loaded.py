"""A trained network with what belongs to it: `Loaded`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import nn

from ...datasets.class_words import class_words
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

    def class_words(self) -> Mapping[str, str]:
        """`class_words` of the data of a classifier or localizer, if they may be opened."""
        config: Any = self.config
        root = getattr(getattr(config.data, "source", None), "root", None)
        named = "data.source.root" in self.named.paths
        return {} if root is None or named else class_words(root)
