"""RoI pooling against torchvision's kernels, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.ops.roi_align import _align_by_kernel, roi_align, roi_pool
from torch import Tensor

STRIDE = 16
SAMPLING = (0, 1, 2, 3)

#: px, on a map of 10 x 13 cells, which is 160 x 208 px.
SPECIAL = torch.tensor(
    [
        [13.3, 21.9, 101.7, 97.1],
        [-40.0, -30.0, 70.0, 60.0],  # across two borders
        [150.3, 120.1, 300.2, 250.7],
        [-90.0, -90.0, 400.0, 400.0],  # all of it and more
        [-300.0, 5.0, -200.0, 70.0],  # outside
        [500.0, 500.0, 600.0, 600.0],
        [33.7, 41.3, 34.1, 120.9],  # thin
        [50.1, 60.2, 50.3, 60.4],  # tiny
        [64.0, 64.0, 64.0, 64.0],  # a point
        [20.0, 30.0, 90.0, 30.0],  # a line
        [90.0, 90.0, 60.0, 70.0],  # inside out
        [0.0, 0.0, 208.0, 160.0],
    ]
)


def random_boxes(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 240 - 40
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 150], dim=1)


def feature_map(*, images: int = 3, channels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, channels, 10, 13, generator=generator)


def reference(
    features: Tensor, boxes: Sequence[Tensor], size: int, sampling_ratio: int, step: int
) -> Tensor:
    crops = torchvision.ops.roi_align(
        features, list(boxes), size, 1 / STRIDE, sampling_ratio, aligned=True
    )
    return crops[..., ::step, ::step]


def ours(
    features: Tensor, boxes: Sequence[Tensor], size: int, sampling_ratio: int, step: int
) -> Tensor:
    return roi_align(
        features, boxes, size=size, stride=STRIDE, sampling_ratio=sampling_ratio, step=step
    )


@pytest.mark.parametrize("sampling_ratio", SAMPLING)
@pytest.mark.parametrize(("size", "step"), [(14, 1), (14, 2), (7, 1), (7, 2), (1, 1)])
def test_values_and_gradient_equal_torchvision(sampling_ratio: int, size: int, step: int) -> None:
    boxes = [SPECIAL, torch.zeros(0, 4), random_boxes(20, seed=1)]
    first = feature_map().requires_grad_()
    second = feature_map().requires_grad_()
    crops = ours(first, boxes, size, sampling_ratio, step)
    expected = reference(second, boxes, size, sampling_ratio, step)
    torch.testing.assert_close(crops, expected, atol=2e-5, rtol=1e-4)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    crops.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampling_ratio", SAMPLING)
@pytest.mark.parametrize(("size", "step"), [(14, 1), (14, 2), (7, 2), (5, 3), (1, 1)])
def test_the_kernel_pools_the_kept_rows_only(sampling_ratio: int, size: int, step: int) -> None:
    """The path of a GPU, by torchvision's kernel for a CPU."""
    boxes = [SPECIAL, torch.zeros(0, 4), random_boxes(20, seed=1)]
    first = feature_map().requires_grad_()
    second = feature_map().requires_grad_()
    crops = _align_by_kernel(first, boxes, size, STRIDE, sampling_ratio, step)
    expected = reference(second, boxes, size, sampling_ratio, step)
    torch.testing.assert_close(crops, expected, atol=2e-5, rtol=1e-4)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    crops.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad, atol=1e-4, rtol=1e-4)
    half = _align_by_kernel(feature_map().bfloat16(), boxes, size, STRIDE, sampling_ratio, step)
    assert half.dtype == torch.bfloat16
    nothing = _align_by_kernel(feature_map(), [SPECIAL[:0]] * 3, size, STRIDE, 2, step)
    assert nothing.shape == (0, *expected.shape[1:])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(-120, 340) for _ in range(4)]), min_size=1, max_size=6),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_any_region_on_any_map(
    rows: list[tuple[int, ...]], size: int, sampling_ratio: int, height: int, width: int
) -> None:
    """Integers and powers of two: samples on the border of the map are exact on both sides."""
    x1, y1, x2, y2 = torch.tensor(rows, dtype=torch.float32).unbind(1)
    boxes = [torch.stack([x1.minimum(x2), y1.minimum(y2), x1.maximum(x2), y1.maximum(y2)], 1)]
    features = torch.arange(2.0 * height * width).reshape(1, 2, height, width)
    torch.testing.assert_close(
        ours(features, boxes, size, sampling_ratio, 1),
        reference(features, boxes, size, sampling_ratio, 1),
        atol=1e-4,
        rtol=1e-5,
    )


def test_a_ramp_is_read_at_the_centres_of_the_bins() -> None:
    """By hand: cell j holds j and its centre is at 16j + 8 px, so x px reads x / 16 - 0.5."""
    features = torch.arange(10.0).expand(1, 1, 10, 10)
    crops = ours(features, [torch.tensor([[16.0, 32.0, 80.0, 96.0]])], 2, 2, 1)
    assert crops.tolist() == [[[[1.5, 3.5], [1.5, 3.5]]]]


def test_bfloat16_features_and_gradient_stay_bfloat16_and_near() -> None:
    boxes = [random_boxes(200, seed=3), SPECIAL, random_boxes(200, seed=4)]
    exact = feature_map().requires_grad_()
    half = exact.detach().bfloat16().requires_grad_()
    crops, expected = ours(half, boxes, 7, 0, 1), reference(exact, boxes, 7, 0, 1)
    assert crops.dtype == torch.bfloat16
    torch.testing.assert_close(crops.float(), expected, atol=3e-2, rtol=3e-2)
    crops.sum().backward()
    expected.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    # 400 overlapping regions: a sum in bfloat16 would be off by far more than 1 %.
    torch.testing.assert_close(half.grad.float(), exact.grad, atol=0.3, rtol=1e-2)
    # Only the input and the results are rounded.
    single = half.detach().float().requires_grad_()
    wanted = ours(single, boxes, 7, 0, 1)
    assert torch.equal(crops, wanted.bfloat16())
    wanted.sum().backward()
    assert torch.equal(half.grad, single.grad.bfloat16())


def test_float32_features_stay_float32_under_autocast() -> None:
    features, boxes = feature_map(), [SPECIAL, SPECIAL[:2], SPECIAL[:1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        crops = ours(features, boxes, 7, 0, 1)
    assert torch.equal(crops, ours(features, boxes, 7, 0, 1))


def test_crops_are_channels_last_and_do_not_depend_on_the_memory_of_the_map() -> None:
    features, boxes = feature_map(), [SPECIAL, SPECIAL[:2], SPECIAL[:1]]
    crops = ours(features, boxes, 7, 0, 1)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    again = ours(features.contiguous(memory_format=torch.channels_last), boxes, 7, 0, 1)
    assert torch.equal(crops, again)


def test_a_region_reads_its_own_image_only() -> None:
    boxes = [torch.zeros(0, 4), random_boxes(4, seed=5), torch.zeros(0, 4)]
    features = feature_map()
    changed = features.clone()
    changed[[0, 2]] = torch.nan
    assert torch.equal(ours(changed, boxes, 7, 0, 1), ours(features, boxes, 7, 0, 1))


@pytest.mark.parametrize("step", [1, 2])
def test_no_regions(step: int) -> None:
    features = feature_map().requires_grad_()
    nothing = [torch.zeros(0, 4)] * 3
    crops = ours(features, nothing, 7, 0, step)
    assert crops.shape == (0, 5, 7 // step + step - 1, 7 // step + step - 1)
    crops.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
    assert roi_pool(features, nothing, size=7, stride=STRIDE, step=step).shape == crops.shape


def test_roi_pool_is_the_largest_cell_of_each_bin() -> None:
    features = torch.arange(100.0).reshape(1, 1, 10, 10)
    box = [torch.tensor([[16.0, 32.0, 64.0, 80.0]])]  # cells 1..4 across, 2..5 down
    crops = roi_pool(features, box, size=2, stride=STRIDE)
    assert crops.tolist() == [[[[32.0, 34.0], [52.0, 54.0]]]]
    crops = roi_pool(features.bfloat16(), box, size=2, stride=STRIDE, step=2)
    assert (crops.dtype, crops.tolist()) == (torch.bfloat16, [[[[32.0]]]])
