"""Rules of configs that someone writes, in YAML files and overrides. Those of checkpoints, runs and
exports may be older than a rule: they are read without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .base import Section
from .detector import LEAST_SIDE, DetectorConfig
from .strict_yaml import KeyPath


class Refusal(NamedTuple):
    """Why the values of some keys are refused, that of the first one above all."""

    keys: tuple[KeyPath, ...]
    reason: str


def refusals(config: Section) -> list[Refusal]:
    """What the rules refuse in a whole config.

    A detector's sides are at least `LEAST_SIDE`, and no shorter one is above
    ``image.long_side_max``. Sides in ``test.scales`` and ``test.pyramid`` may be: the limit of the
    longer side grows with them.
    """
    if not isinstance(config, DetectorConfig):
        return []
    image, longest = config.image, ("image", "long_side_max")
    train = dict(_items(("image", "short_side_train"), image.short_side_train))
    test: dict[KeyPath, int] = {("image", "short_side_test"): image.short_side_test}
    scales = _items(("test", "scales"), config.test.scales)
    pyramid = _items(("test", "pyramid"), config.test.pyramid)
    sides = train | test | {longest: image.long_side_max} | dict(scales) | dict(pyramid)
    small = [
        Refusal((key,), f"must be greater than or equal to {LEAST_SIDE} (got {side})")
        for key, side in sides.items()
        if side < LEAST_SIDE
    ]
    return small + [
        # Who tests a trained network with another long_side_max cannot change its training.
        Refusal(
            (key, longest) if key in test else (key,),
            f"{side} is above image.long_side_max {image.long_side_max}, so that no image would "
            "have it: lower the one or raise the other",
        )
        for key, side in (train | test).items()
        if side > image.long_side_max >= LEAST_SIDE
    ]


def _items(key: KeyPath, sides: tuple[int, ...]) -> Iterator[tuple[KeyPath, int]]:
    return (((*key, number), side) for number, side in enumerate(sides))
