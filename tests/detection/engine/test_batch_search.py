"""``train.batch_size: auto``: the search with a simulated memory, and the batches it would try. The
measurement on a GPU is not tested here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.engine.batch_search import largest_batch, repeated
from resdet.tests.detection.engine.test_plots import annotation, batch


@given(
    st.integers(1, 10**9),
    st.integers(0, 10**11),
    st.integers(1, 10**11),
    st.integers(1, 5000),
    st.integers(1, 16),
)
def test_the_largest_batch_of_a_linear_memory(
    each: int, weights: int, memory: int, most: int, unit: int
) -> None:
    asked = []

    def fits(images: int) -> bool:
        asked.append(images)
        return weights + images * each <= memory

    found = largest_batch(fits, most, unit)
    sizes = range(unit, most + 1, unit)
    expected = max((n for n in sizes if weights + n * each <= memory), default=0)
    assert found == expected
    assert all(images % unit == 0 and unit <= images <= most for images in asked)
    assert max(asked, default=0) <= max(2 * found, unit)
    assert len(asked) == len(set(asked)) <= 2 * (found // unit).bit_length() + 1


def test_memory_in_steps_as_an_allocator_gives_it() -> None:
    assert largest_batch(lambda images: -(-images // 8) * 8 * 100 <= 4000, 1000) == 40
    assert largest_batch(lambda images: True, 1000) == 1000
    assert largest_batch(lambda images: False, 1000) == 0


def test_images_are_repeated_and_padded() -> None:
    two = batch(annotation((1, 1, 9, 9)), annotation())
    five = repeated(two, 5, (100, 7))
    height, width = two.images.shape[2:]
    assert five.images.shape == (5, 3, max(height, 100), width) and len(five.sizes) == 5
    assert (five.images[4, :, :height] == two.images[0]).all() and not five.images[
        :, :, height:
    ].any()
    assert [len(each) for each in five.annotations] == [1, 0, 1, 0, 1]
    assert repeated(two, 1).images.shape[0] == 1
