"""Which shipped config a proposed one builds on, by what a check says of the data, and why."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resdet.datasets.checks.statistics import Anchors

if TYPE_CHECKING:
    from resdet.datasets.checks.scales import ScaleFit, Scales

_RATIOS = (0.5, 1.0, 2.0)
#: Detectors' configs for a CPU, the smallest images first, with their anchors and scales. Stated
#: here, as reading the configs takes seconds; a test compares.
DETECTORS: Mapping[str, Anchors] = {
    "cards_r18.yaml": Anchors((64, 128, 256), _RATIOS, 320, 640, 16),
    "bccd_r18.yaml": Anchors((32, 64, 128, 256), _RATIOS, 480, 800, 16),
}
#: Of each its passes over the images that it was made for, their number, and what it took.
_MEASURED: Mapping[str, tuple[int, int, str]] = {
    "cards_r18.yaml": (10, 2800, "1400 took 12 minutes"),
    "bccd_r18.yaml": (12, 2400, "1200 took 18 minutes"),
}
_BATCH = 2
#: Training images beyond which a GPU is named.
_MANY = 1000


@dataclass(frozen=True)
class Proposal:
    """The shipped config ``base``, the sections of a config that change it, and ``reasons``."""

    base: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    reasons: Sequence[str] = ()

    @property
    def comment(self) -> str:
        """The reasons as lines of a YAML file."""
        lines = [line for each in self.reasons for line in textwrap.wrap(each, width=96)]
        return "".join(f"# {line}\n" for line in lines)


#: For images of classes, whatever their size.
CLASSIFIER = Proposal(
    "caltech40_r18.yaml",
    reasons=("caltech40_r18.yaml is a small network that trains from scratch on a CPU.",),
)


def propose_detector(scales: Scales | None, images: int, kept: float) -> Proposal:
    """The config with the smallest images in which the objects of every class are large enough, and
    the epochs for ``images``, of which the share ``kept`` trains."""
    fits = scales.fits if scales else {}
    name = next((each for each, fit in fits.items() if fit.shows_all), [*DETECTORS][-1])
    changes, reasons = _scale(name, scales) if scales else ({}, [])
    own_epochs, seen, took = _MEASURED[name]
    epochs = max(own_epochs, math.ceil(seen / max(images, 1)))
    steps = math.ceil(epochs * max(1, round(images * kept)) / _BATCH)
    reasons += [f"{epochs} epochs are about {steps} steps; its own {took} on two cores."]
    if images > _MANY:
        reasons += ["So many images are for a GPU, with base: voc_r101.yaml (docs/configs.md)."]
    return Proposal(name, {**changes, "train": {"epochs": epochs}}, reasons)


def _scale(name: str, scales: Scales) -> tuple[dict[str, Any], list[str]]:
    """Why this one, by the size of images and objects, and anchors where its own do not fit."""
    chosen, side = scales.fits[name], DETECTORS[name].short_side
    reasons = [
        f"{name} is a small network that trains from scratch on a CPU, on images with a shorter "
        f"side of {side} px; yours have {scales.short_side} px (median). {_seen(chosen, side)}"
    ]
    for other, seen in scales.fits.items():
        if DETECTORS[other].short_side < side:
            reasons += [f"Not {other}. {_seen(seen, DETECTORS[other].short_side)}"]
    if not chosen.shows_all:
        reasons += ["Larger images show more of them: docs/recipes.md, small objects."]
    fit = chosen.anchors
    if not fit.misfit or fit.suggested_sizes == fit.sizes:
        return {}, reasons
    before, after = (f"{poor / fit.objects:.1%}" for poor in (fit.poor, fit.suggested_poor))
    reasons += [
        f"Of the objects {before} have no anchor that fits, with rpn.anchor_sizes here {after}."
    ]
    return {"rpn": {"anchor_sizes": [int(size) for size in fit.suggested_sizes]}}, reasons


def _seen(fit: ScaleFit, side: int) -> str:
    name, least, wanted = fit.smallest_class, fit.least_side, fit.wanted_side
    if fit.shows_all:
        return (
            f"At {side} px three quarters of the objects of each class are at least {wanted} px "
            f"large ({least:.0f} px of {name}, the smallest)."
        )
    return (
        f"At {side} px a quarter of the objects of {name} are smaller than {least:.0f} px; "
        f"{wanted} px are two cells of the feature map."
    )
