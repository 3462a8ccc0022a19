"""The learning-rate range test: what curves of losses suggest, and a training that diverges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.engine.range_test import RangeTest, rising_rates

RATES = rising_rates(1e-4, 1.0, 100)


def bowl(best: int, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Losses that fall from 3 to 1 up to the step ``best`` and rise after it."""
    draw = np.random.default_rng(seed)
    far = max(best, 1)
    return [1 + 2 * ((step - best) / far) ** 2 + noise * draw.normal(0, 1) for step in range(100)]


def test_rates_rise_by_one_factor() -> None:
    assert rising_rates(0.01, 100, 5) == pytest.approx([0.01, 0.1, 1, 10, 100])


@pytest.mark.parametrize("best", [20, 50, 80])
def test_a_tenth_of_the_rate_with_the_lowest_loss(best: int) -> None:
    test = RangeTest(RATES, bowl(best), diverged=False)
    assert test.objection() is None and test.suggestion() == pytest.approx(RATES[best] / 10)


@given(st.integers(0, 10_000))
def test_noise_moves_the_suggestion_by_little(seed: int) -> None:
    found = RangeTest(RATES, bowl(60, noise=0.2, seed=seed), diverged=False).suggestion()
    assert found is not None
    assert abs(math.log10(found / (RATES[60] / 10))) < 0.8  # decades, of four


def test_noise_alone_suggests_nothing() -> None:
    draw = np.random.default_rng(0)
    curves = [[2 + draw.normal(0, 0.3) for _ in RATES] for _ in range(400)]
    suggested = [RangeTest(RATES, curve, False).suggestion() is not None for curve in curves]
    assert sum(suggested) <= 12  # 3 %


def test_a_loss_that_rose_once_is_not_trusted_when_it_falls_again() -> None:
    falling, rising = [3 - step / 20 for step in range(40)], [1 + step / 10 for step in range(20)]
    losses = [*falling, *rising, *[3 - step / 10 for step in range(30)]]
    test = RangeTest(RATES, losses, diverged=False)
    assert min(test.smoothed[60:]) < min(test.smoothed[:60])
    assert abs(test.lowest - 39) <= 2 and test.suggestion() is not None


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_never_rises_asks_for_higher_rates(seed: int) -> None:
    draw = np.random.default_rng(seed)
    losses = [3 - step / 50 + draw.normal(0, 0.05) for step in range(100)]
    test = RangeTest(RATES, losses, diverged=False)
    assert test.suggestion() is None
    assert "still falls at the highest rate" in str(test.objection())
    # The same losses, ended by a rate with which the next one was not finite.
    ended = RangeTest(rising_rates(1e-4, 1, 120), losses, diverged=True)
    assert ended.objection() is None


def test_a_loss_that_diverges_at_once_asks_for_lower_rates() -> None:
    for losses in ([], [2.0], [2.0, 9.0, 80.0]):
        test = RangeTest(RATES, losses, diverged=True)
        assert test.suggestion() is None and "lower rates" in str(test.objection())
