"""Bootstrap confidence intervals of average precision over the test images.

N images · K classes · B resamples · M ranked detections of a class · T right ones among them.

A resample draws N images with replacement and counts each as often as it was drawn. Whether a
detection is right depends only on its own image, so that it is matched once: the ranked lists are
reused, and each row is weighted with the count of its image. The copies of a detection are ranked
together.

The intervals measure the variance due to the test images; that of training needs several seeds. The
difference of two systems on the same resamples has a much smaller interval than either number,
because a hard resample is hard for both (paired bootstrap; Efron and Tibshirani, An Introduction to
the Bootstrap, percentile intervals, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .columns import Bools, Columns, Floats, Ints, id_order
from .definitions import DEFINITIONS as DETECTION_DEFINITIONS
from .voc import area_ap, mean_defined, outcomes, precision_recall

#: The IoUs whose area APs are averaged.
METRICS: Mapping[str, tuple[float, ...]] = {
    "voc_ap50": (0.5,),
    "voc_ap75": (0.75,),
    "voc_ap": tuple(round(0.5 + 0.05 * step, 2) for step in range(10)),
}

#: Definition of each metric; two numbers are comparable only if these lines agree.
DEFINITIONS: Mapping[str, str] = {
    "voc_ap50": DETECTION_DEFINITIONS["voc_ap50"],
    "voc_ap75": "the same at IoU >= 0.75",
    "voc_ap": "the same, mean over IoU 0.50:0.05:0.95 (not COCO's AP, which takes 101 recalls)",
}

#: Of all intervals that are shown.
CONFIDENCE = 0.95
RESAMPLES = 1000

#: Resampled rows processed at a time: arrays of 2 MiB, which fit the processor's cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


#: Small, as there are a thousand of them for each image.
Counts = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each image is in each resample: ``counts`` (N, B), images by `id_order`."""

    image_ids: tuple[str, ...]
    counts: Counts


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number with its value on each resample, ``samples`` (B,).

    A resample without any object has no average precision: it is nan and left out of the interval.
    """

    value: float
    samples: Floats
    draws: Draws

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Percentile interval; nan where nothing is defined."""
        defined = self.samples[~np.isnan(self.samples)]
        if len(defined) == 0:
            return Interval(self.value, math.nan, math.nan)
        outside = (1 - confidence) / 2
        low, high = np.quantile(defined, [outside, 1 - outside])
        return Interval(self.value, float(low), float(high))

    def probability(self) -> float:
        """The share of the resamples where the number is above 0, a half of those where it is 0;
        nan where nothing is defined."""
        defined = self.samples[~np.isnan(self.samples)]
        return float(((np.sign(defined) + 1) / 2).mean()) if len(defined) else math.nan

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference. Raises ValueError unless both come from the same draws."""
        if self.draws is not other.draws:
            raise ValueError("a paired difference needs two estimates from the same draws")
        return Estimate(self.value - other.value, self.samples - other.samples, self.draws)


def draw(image_ids: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """``resamples`` draws of N images out of N, with replacement."""
    images = len(image_ids)
    generator = np.random.default_rng(seed)
    counts = np.zeros((images, resamples), dtype=np.int16)
    for column in range(resamples if images else 0):
        drawn = generator.integers(images, size=images)
        counts[:, column] = np.bincount(drawn, minlength=images)
    return Draws(tuple(sorted(image_ids, key=id_order)), counts)


def bootstrap(
    columns: Columns, draws: Draws, *, metrics: Mapping[str, Sequence[float]] = METRICS
) -> dict[str, Estimate]:
    """Each metric of a data set's detections, with its value on every resample.

    ``metrics`` are named lists of IoUs. A value is the mean over classes and IoUs, on a resample
    over the classes with objects in it; ``voc_ap50`` is `evaluate`'s number, to the last bit.

    Raises:
        ValueError: the draws are of other images.
    """
    if columns.image_ids != draws.image_ids:
        raise ValueError("the draws are not of the images of these columns")
    ious = sorted({iou for wanted in metrics.values() for iou in wanted})
    values = {iou: mean_defined(map(area_ap, precision_recall(columns, iou=iou))) for iou in ious}
    samples = {iou: _mean_ap(columns, draws.counts, iou) for iou in ious}
    return {
        name: Estimate(
            mean_defined(values[iou] for iou in wanted),
            np.mean([samples[iou] for iou in wanted], axis=0),
            draws,
        )
        for name, wanted in metrics.items()
    }


def bootstrap_means(values: Mapping[str, Floats], draws: Draws) -> dict[str, Estimate]:
    """The mean over the images of each quantity (N,), in the order of the draws' images, with its
    value on every resample; nan where the quantity of an image is."""
    images = max(1, len(draws.image_ids))
    table = np.stack([*values.values()], axis=1)  # (N, quantities)
    step = max(1, _CHUNK // images)
    starts = range(0, draws.counts.shape[1], step)
    parts = [draws.counts[:, start : start + step].T @ table / images for start in starts]
    samples = np.concatenate([np.zeros((0, len(values))), *parts])
    return {
        name: Estimate(float(column.mean()) if len(column) else math.nan, samples[:, place], draws)
        for place, (name, column) in enumerate(values.items())
    }


def mean_intervals(
    values: Mapping[str, Floats], image_ids: Sequence[str], resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The mean of each quantity (N,) of the images with its interval: Wilson's for shares, which
    has a width also at 0 and 1, and that of the bootstrap for all else."""
    shares = {name for name, each in values.items() if np.isin(each, (0, 1)).all()}
    found = {name: wilson_interval(values[name]) for name in shares}
    if others := {name: each for name, each in values.items() if name not in shares}:
        order = sorted(range(len(image_ids)), key=lambda row: id_order(image_ids[row]))
        draws = draw(image_ids, resamples=resamples)
        ordered = {name: each[order] for name, each in others.items()}
        estimates = bootstrap_means(ordered, draws)
        found |= {name: estimate.interval() for name, estimate in estimates.items()}
    return {name: found[name] for name in values}


def wilson_interval(outcomes: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The share of 1 among ``outcomes`` (N,), 0 or 1, with Wilson's interval; nan for N = 0."""
    from scipy.stats import binomtest  # half a second to import

    if len(outcomes) == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = binomtest(round(float(outcomes.sum())), len(outcomes))
    low, high = share.proportion_ci(confidence, method="wilson")
    return Interval(float(outcomes.mean()), float(low), float(high))


def _mean_ap(columns: Columns, counts: Counts, iou: float) -> Floats:
    """(B,) area AP on every resample, the mean over its classes with objects."""
    total, defined = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for ranked in _rankings(columns, iou):
        aps = ranked.aps(counts)
        total += np.nan_to_num(aps)
        defined += ~np.isnan(aps)
    return np.divide(total, defined, out=np.full_like(total, np.nan), where=defined > 0)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The detections of one class that count, best first: ``images`` (M,), ``right`` (M,); and the
    images of the objects to be found."""

    images: Ints
    right: Bools
    objects: Ints

    def aps(self, counts: Counts) -> Floats:
        """(B,) area AP with each image counted ``counts`` (N, B) times, a few columns at a time."""
        step = max(1, _CHUNK // max(1, len(self.images)))
        starts = range(0, counts.shape[1], step)
        parts = [self._aps(counts[:, start : start + step]) for start in starts]
        return np.concatenate([np.zeros(0), *parts])

    def _aps(self, counts: Counts) -> Floats:
        objects = counts[self.objects].sum(axis=0)
        # Recall rises and precision peaks only at right detections: the counts of those between are
        # summed, and the ones after the last are of no use.
        places = np.flatnonzero(self.right) + 1
        if not len(places):
            return np.where(objects > 0, 0.0, np.nan)
        between = counts[self.images[: places[-1]]]
        taken = np.add.reduceat(between, np.append(0, places[:-1]), axis=0, dtype=np.int32)
        taken = taken.cumsum(axis=0, dtype=np.int32)
        weight = counts[self.images[self.right]]
        precision = weight.cumsum(axis=0) / np.maximum(taken, 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        area = (weight * envelope).sum(axis=0)
        return np.divide(area, objects, out=np.full(len(area), np.nan), where=objects > 0)


def _rankings(columns: Columns, iou: float) -> list[_Ranking]:
    truth, found = columns.truth, columns.found
    order = np.lexsort((-found.scores, found.labels))
    right, counts = outcomes(columns, order, iou)
    labels, images = found.labels[order], found.images[order]
    starts = np.searchsorted(labels, np.arange(columns.num_classes + 1))
    return [
        _Ranking(
            images=images[rows := slice(*starts[label : label + 2])][counts[rows]],
            right=right[rows][counts[rows]],
            objects=truth.images[~truth.ignore & (truth.labels == label)],
        )
        for label in range(columns.num_classes)
    ]
