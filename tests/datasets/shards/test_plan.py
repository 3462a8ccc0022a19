"""The order of a stream is arithmetic, shuffled, and covers every image."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.shards.plan import Segment, StreamPlan, buffered_order
from resdet.detection.errors import ConfigError, DataError

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8).map(tuple)


@given(COUNTS, st.integers(1, 4), st.integers(1, 3), st.integers(0, 9), st.integers(0, 3))
def test_an_epoch_reads_every_image_once(
    counts: tuple[int, ...], lanes: int, per_step: int, seed: int, epoch: int
) -> None:
    plan = StreamPlan(counts, lanes * per_step, seed, lanes)
    read: Counter[tuple[int, int]] = Counter()
    for lane in range(lanes):
        segments = plan.segments(epoch, lane)
        assert sum(map(len, segments)) == plan.steps_per_epoch * per_step
        for segment in segments:
            read.update((segment.shard, place) for place in range(segment.first, segment.last))
    assert len(read) == sum(counts)
    excess = read.total() - sum(counts)
    assert 0 <= excess < lanes * per_step
    if excess <= sum(counts):
        assert max(read.values()) <= 2


def test_lanes_worked_by_hand() -> None:
    plan = StreamPlan((4, 4, 2), batch_size=4, seed=0, lanes=2)
    row = np.random.default_rng([0, 5]).permutation(3).tolist()
    places = [(shard, place) for shard in row for place in range((4, 4, 2)[shard])]
    lanes = [
        [(s.shard, place) for s in plan.segments(5, lane) for place in range(s.first, s.last)]
        for lane in (0, 1)
    ]
    # Ten images in three steps of four: six in each lane, the last two from the beginning.
    assert lanes == [places[:6], places[6:] + places[:2]]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = StreamPlan((3,) * 9, 3, seed=0, lanes=1, buffer=4)
    orders = [tuple(each.shard for each in plan.segments(epoch, 0)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert plan.segments(2, 0) == plan.segments(2, 0)
    assert plan.order(0, 0).tolist() == plan.order(0, 0).tolist() != plan.order(1, 0).tolist()
    assert plan.segments(0, 0) != StreamPlan((3,) * 9, 3, seed=1, lanes=1).segments(0, 0)


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 99))
def test_a_buffer_yields_everything_once_and_after_it_was_read(
    count: int, size: int, seed: int
) -> None:
    order = buffered_order(count, size, np.random.default_rng(seed)).tolist()
    assert sorted(order) == list(range(count))
    assert all(number < turn + size for turn, number in enumerate(order))


def test_a_buffer_of_one_changes_nothing_and_a_large_one_shuffles_evenly() -> None:
    assert buffered_order(9, 1, np.random.default_rng(0)).tolist() == list(range(9))
    firsts = Counter(int(buffered_order(5, 5, np.random.default_rng(n))[0]) for n in range(2000))
    assert set(firsts) == set(range(5)) and min(firsts.values()) > 320  # 400 each
    order = buffered_order(10_000, 100, np.random.default_rng(0))
    # In a steady state the wait is geometric with a mean of 99 turns.
    waits = np.arange(1000, 9000) - order[1000:9000]
    assert abs(waits.mean()) < 30 and 70 < waits.std() < 130
    assert sum(two == one + 1 for one, two in pairwise(order.tolist())) < 300


def test_batches_that_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="batch_size 6 cannot be divided among 4 lanes"):
        StreamPlan((9,), 6, 0, lanes=4)
    with pytest.raises(ConfigError, match="buffer"):
        StreamPlan((9,), 8, 0, lanes=4, buffer=0)
    with pytest.raises(DataError, match="no images"):
        StreamPlan((), 8, 0)
    assert len(Segment(0, 2, 5)) == 3
