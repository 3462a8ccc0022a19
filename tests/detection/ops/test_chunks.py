"""Chunks of regions: the arithmetic of the plan, and pooling in chunks against pooling at once."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.errors import ConfigError
from resdet.detection.ops import chunks
from resdet.detection.ops.chunks import MAX_ELEMENTS, Chunk, in_chunks, plan_chunks
from resdet.detection.ops.roi_align import roi_pool
from torch import Tensor


def test_a_plan_by_hand() -> None:
    """At most 12 elements: three regions of 4, and two maps of 6."""
    plan = plan_chunks([2, 3, 0, 4], per_region=4, per_image=6, limit=12)
    assert plan == [
        Chunk(0, ((0, 2), (0, 1))),
        Chunk(1, ((1, 3), (0, 0))),
        Chunk(3, ((0, 3),)),
        Chunk(3, ((3, 4),)),
    ]
    assert plan_chunks([2, 3], per_region=1, per_image=1, limit=5) == [Chunk(0, ((0, 2), (0, 3)))]


def test_eleven_images_of_512_regions_are_the_first_that_do_not_fit_at_once() -> None:
    """The shortcut's 2048 channels at 14 x 14, as in R101-C4, have 2^31 elements from there on."""
    per_region, per_image = 2048 * 14 * 14, 2048 * 38 * 63
    assert 10 * 512 * per_region < 2**31 <= 11 * 512 * per_region
    plan = plan_chunks([512] * 11, per_region=per_region, per_image=per_image)
    assert len(plan) == 3


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(5, 40),
)
def test_every_region_is_in_one_chunk_that_fits(
    counts: list[int], per_region: int, per_image: int, limit: int
) -> None:
    plan = plan_chunks(counts, per_region=per_region, per_image=per_image, limit=limit)
    seen = [
        (chunk.first + offset, region)
        for chunk in plan
        for offset, (start, stop) in enumerate(chunk.spans)
        for region in range(start, stop)
    ]
    assert seen == [
        (image, region) for image, count in enumerate(counts) for region in range(count)
    ]
    sizes = [sum(stop - start for start, stop in chunk.spans) for chunk in plan]
    assert all(size * per_region <= limit for size in sizes)
    assert all(1 <= len(chunk.spans) <= limit // per_image for chunk in plan)
    images = {chunk.first + offset for chunk in plan for offset in range(len(chunk.spans))}
    assert images == set(range(len(counts))), "an image without regions has its empty part"
    if len(counts) * per_image <= limit:  # only regions are limited: the fewest chunks
        assert len(plan) == max(1, -(-sum(counts) // (limit // per_region)))


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"per_region": 8, "per_image": 1}, "the crop of one region has 8 elements.*roi.pool_size"),
        ({"per_region": 1, "per_image": 8}, "the map of one image has 8 elements.*image sizes"),
    ],
)
def test_what_cannot_be_divided_is_refused(sizes: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan_chunks([1, 2], limit=7, **sizes)


def boxes_of(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = [torch.rand(count, 2, generator=generator) * 120 - 20 for count in counts]
    return [
        torch.cat([corner, corner + torch.rand(len(corner), 2, generator=generator) * 90], dim=1)
        for corner in corners
    ]


@pytest.mark.parametrize("limit", [3 * 49 * 2, 10 * 13 * 3, 10**6])
def test_chunks_give_the_crops_and_gradients_of_one_call(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two regions at a time; one image at a time; all at once."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(3, 3, 10, 13, generator=generator).double().requires_grad_()
    second = first.detach().clone().requires_grad_()
    boxes, calls = boxes_of(5, 0, 4), []

    def kernel(maps: Tensor, regions: list[Tensor]) -> Tensor:
        crops = torchvision.ops.roi_align(maps, regions, 7, 1 / 16, 2, aligned=True)
        calls.append(max(maps.numel(), crops.numel()))
        return crops

    expected = kernel(second, [own.double() for own in boxes])
    calls.clear()
    monkeypatch.setattr(chunks, "MAX_ELEMENTS", max(limit, 10 * 13 * 3))
    crops = in_chunks(kernel, first, boxes, bins=49)
    assert max(calls) <= chunks.MAX_ELEMENTS and (len(calls) > 1) == (limit < 10**6)
    assert torch.equal(crops, expected)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(expected.shape, generator=generator).double()
    crops.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-12, atol=1e-12)


def test_roi_pool_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 3, 10, 13, generator=torch.Generator().manual_seed(2))
    first, second = features.clone().requires_grad_(), features.clone().requires_grad_()
    whole = roi_pool(second, boxes_of(6, 5), size=4, stride=16, step=2)
    monkeypatch.setattr(chunks, "MAX_ELEMENTS", 10 * 13 * 3)
    parts = roi_pool(first, boxes_of(6, 5), size=4, stride=16, step=2)
    assert torch.equal(parts, whole)
    whole.sum().backward()
    parts.sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_pools_more_than_it_can_count_at_once() -> None:
    """2^31 elements and some: without chunks the kernel returns zeros."""
    channels, size = 512, 14
    count = 2**31 // (channels * size * size) + 100
    assert count * channels * size * size > 2**31 > MAX_ELEMENTS
    corner = torch.rand(count, 2, device="cuda") * 300
    boxes = [torch.cat([corner, corner + 10 + torch.rand_like(corner) * 200], dim=1)]
    features = torch.randn(1, channels, 32, 32, device="cuda", requires_grad=True)

    def kernel(maps: Tensor, regions: list[Tensor]) -> Tensor:
        return torchvision.ops.roi_align(maps, regions, size, 1 / 16, 2, aligned=True)

    crops = in_chunks(kernel, features, boxes, bins=size * size)
    for rows in (slice(0, 5), slice(-5, None)):
        expected = kernel(features.cpu(), [boxes[0][rows].cpu()])
        torch.testing.assert_close(crops[rows].cpu(), expected, rtol=1e-4, atol=1e-4)
    crops[-1].sum().backward()
    assert features.grad is not None and features.grad.any()
