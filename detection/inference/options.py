"""The settings of a run over images, checked against the model that it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...datasets.formats.coco_ids import CocoIds
from ..errors import ConfigError
from .image_results import check_threshold, labels_of
from .outputs import ClassOutput
from .predictor import Predictor


@dataclass(frozen=True)
class FolderOptions:
    """The settings of `run_folder`.

    ``class_thresholds`` are minimum scores of single classes by name, ``only_classes`` names, empty
    for all. ``draw``, ``sort_by_class`` and ``save_crops`` are those of `Extras`. ``provenance`` is
    everything else that the results depend on, such as the weights file; it is kept in
    ``meta.json`` and must not change on resume. ``inputs`` are what the images were named by; they
    are kept there too, and may change. ``coco_ids`` are the ids in the COCO JSON (None: numbers
    from 1). ``seconds`` is what reading an image may take, in a process of its own; None:
    any time.
    """

    score_threshold: float = 0.5
    only_classes: tuple[str, ...] = ()
    batch_size: int = 1
    draw: bool = True
    resume: bool = False
    workers: int = 2
    provenance: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    coco_ids: CocoIds | None = None
    sort_by_class: bool = False
    class_thresholds: Mapping[str, float] = field(default_factory=dict)
    save_crops: bool = False
    seconds: float | None = None

    def check(self, predictor: Predictor[Any]) -> None:
        """Raises ConfigError for settings out of range or that do not fit the model."""
        if self.batch_size < 1 or self.workers < 1:
            raise ConfigError("batch size and workers must be at least 1")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"--timeout-per-image {self.seconds:g}: expected seconds above 0")
        check_threshold(self.score_threshold)
        for name, threshold in self.class_thresholds.items():
            check_threshold(threshold, f" of class {name}")
        ranks, classes = isinstance(predictor.output, ClassOutput), predictor.classes
        if self.sort_by_class and not ranks:
            raise ConfigError("--sort-by-class: only the weights of a classifier sort images")
        if ranks and (self.only_classes or self.save_crops or self.coco_ids is not None):
            raise ConfigError(
                "--classes, --save-crop and --coco-ids are about boxes, which a classifier lacks"
            )
        labels_of([*self.only_classes, *self.class_thresholds], classes)

    @property
    def least(self) -> float:
        """The lowest minimum score of the classes that are wanted."""
        own, general = self.class_thresholds, self.score_threshold
        wanted = [own.get(name, general) for name in self.only_classes]
        return min(wanted or [general, *own.values()])

    def thresholds(self, classes: Sequence[str]) -> Tensor:
        """(K,) f32 minimum scores of the classes; infinite for those that are not wanted."""
        return torch.tensor(
            [
                self.class_thresholds.get(name, self.score_threshold)
                if not self.only_classes or name in self.only_classes
                else torch.inf
                for name in classes
            ]
        )
