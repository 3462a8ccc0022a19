"""The batch plan is arithmetic: it has no state, and every image comes once an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.loading.sampling import BatchPlan, epoch_batches, sample_seed
from resdet.detection.errors import ConfigError, DataError

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=40)
LANDSCAPE, PORTRAIT = (30, 40), (40, 30)


# ------------------------------------------------------------------------------------- seeds


def test_sample_seed_is_the_same_everywhere() -> None:
    # echo -n 1/2/3 | b2sum -l 64, shifted right by one bit
    assert sample_seed(1, 2, 3) == 0x34109D85A2484C0F
    assert len({sample_seed(*key) for key in np.ndindex(5, 20, 50)}) == 5000
    assert all(0 <= sample_seed(0, 0, index) < 2**63 for index in range(200))
    assert sample_seed(1, 11, 1) != sample_seed(11, 1, 1)


# -------------------------------------------------------------------------------- epoch_batches


@given(SIZES, st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_image_once(
    sizes: list[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(sizes, batch_size, seed, epoch).tolist()
    assert all(len(batch) == batch_size for batch in batches)
    assert (len(batches) - 1) * batch_size < len(sizes) <= len(batches) * batch_size
    left = len(sizes) - (len(batches) - 1) * batch_size
    whole = [index for batch in batches[:-1] for index in batch]
    last = batches[-1] if batches else []
    assert sorted(whole + last[:left]) == list(range(len(sizes)))
    if batch_size <= len(sizes):
        assert len(set(last)) == len(last)


@given(SIZES, st.integers(1, 9), st.integers(0, 99))
def test_at_most_two_batches_mix_shapes(
    sizes: list[tuple[int, int]], batch_size: int, seed: int
) -> None:
    batches = epoch_batches(sizes, batch_size, seed, 0)
    wide = [{sizes[index][1] >= sizes[index][0] for index in batch} for batch in batches]
    assert all(len(shapes) == 1 for shapes in wide[:-2])


def test_epochs_and_seeds_differ_and_repeat() -> None:
    sizes = [LANDSCAPE] * 50
    first = epoch_batches(sizes, 5, 0, 0).tolist()
    assert first == epoch_batches(sizes, 5, 0, 0).tolist()
    assert first != epoch_batches(sizes, 5, 0, 1).tolist()
    assert first != epoch_batches(sizes, 5, 1, 0).tolist()


def test_the_batches_of_two_epochs_by_hand() -> None:
    """A change of these numbers would give all runs another order of images."""
    sizes = [LANDSCAPE, PORTRAIT, LANDSCAPE, LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT]
    first, second = (epoch_batches(sizes, 2, 3, epoch).tolist() for epoch in (0, 1))
    assert (first, second) == (
        [[5, 2], [6, 1], [3, 0], [4, 5]],
        [[1, 4], [2, 0], [5, 3], [6, 2]],
    )


def test_fewer_images_than_the_batch() -> None:
    [batch] = epoch_batches([LANDSCAPE, PORTRAIT], 5, 0, 0)
    assert sorted(Counter(batch).values()) == [2, 3]


# ------------------------------------------------------------------------------------ BatchPlan


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30),
    st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 2), (1, 12)]),
    st.integers(0, 20),
)
def test_every_split_sees_the_same_global_batches(
    sizes: list[tuple[int, int]], split: tuple[int, int], start: int
) -> None:
    world, accumulate = split
    options = {"batch_size": 12, "seed": 5, "steps": 20}
    expected = list(BatchPlan(sizes, **options))[start:]
    shares = [
        list(
            BatchPlan(
                sizes, **options, start_step=start, rank=rank, world=world, accumulate=accumulate
            )
        )
        for rank in range(world)
    ]
    for share in shares:
        assert len(share) == len(expected) * accumulate
        assert all(len(part) == 12 // (world * accumulate) for part in share)
    for step, batch in enumerate(expected):
        parts = [
            part for share in shares for part in share[step * accumulate : (step + 1) * accumulate]
        ]
        assert [key for part in parts for key in part] == batch


def test_steps_go_through_the_epochs() -> None:
    sizes = [LANDSCAPE, PORTRAIT, LANDSCAPE, LANDSCAPE, PORTRAIT]
    plan = BatchPlan(sizes, batch_size=2, seed=8, steps=7)
    assert plan.steps_per_epoch == 3 and len(plan) == 7
    seen = [[key.index for key in keys] for keys in plan]
    epochs = [batch for epoch in range(3) for batch in epoch_batches(sizes, 2, 8, epoch).tolist()]
    assert seen == epochs[:7]


def test_an_image_has_another_seed_in_every_epoch() -> None:
    plan = BatchPlan([LANDSCAPE] * 4, batch_size=4, seed=0, steps=10)
    seeds = [key.seed for keys in plan for key in keys]
    assert len(set(seeds)) == 40


def test_plan_restarts_when_iterated_again() -> None:
    plan = BatchPlan([LANDSCAPE] * 5, batch_size=2, seed=0, start_step=1, steps=6)
    assert list(plan) == list(plan)


def test_batch_that_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 6 .* 2 process.* 2 accumulation"):
        BatchPlan([LANDSCAPE], batch_size=6, seed=0, steps=1, world=2, accumulate=2)


def test_no_images_to_train_on() -> None:
    with pytest.raises(DataError, match="no images"):
        BatchPlan([], batch_size=2, seed=0, steps=1)
    assert list(BatchPlan([], batch_size=2, seed=0, steps=0)) == []


def test_finished_plan_is_empty() -> None:
    plan = BatchPlan([LANDSCAPE], batch_size=1, seed=0, start_step=9, steps=5)
    assert len(plan) == 0 and list(plan) == []
