"""Reordering of head rows, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.backbones.norm import FrozenNorm
from resdet.backbones.weights.rewrites import (
    background_last,
    norm_from_affine,
    object_boxes,
    sigmoid_rows,
    size_major,
)
from resdet.detection.errors import WeightsError


def test_ratio_major_logits_become_size_major() -> None:
    """2 sizes s, 3 ratios r: channels r0s0 r0s1 r1s0 r1s1 r2s0 r2s1."""
    rows = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])  # 10 x ratio + size
    assert size_major(rows, anchors=6, ratios=3).tolist() == [0, 10, 20, 1, 11, 21]


def test_ratio_major_deltas_keep_the_four_of_an_anchor_together() -> None:
    rows = torch.tensor(
        [[100.0 * anchor + coordinate] for anchor in range(4) for coordinate in range(4)]
    )
    out = size_major(rows, anchors=4, ratios=2)
    assert out.flatten().tolist() == [
        0,
        1,
        2,
        3,
        200,
        201,
        202,
        203,
        100,
        101,
        102,
        103,
        300,
        301,
        302,
        303,
    ]


def test_the_channel_of_an_anchor_follows_the_formulas_of_both_systems() -> None:
    """mmdetection: ratio x 5 + size; detectron2: size x 3 + ratio."""
    out = size_major(torch.arange(15.0), anchors=15, ratios=3)
    for ratio in range(3):
        for size in range(5):
            assert out[size * 3 + ratio] == ratio * 5 + size


@given(st.floats(-20, 20, width=32), st.floats(-20, 20, width=32))
def test_sigmoid_of_the_difference_is_the_softmax(background: float, foreground: float) -> None:
    rows = torch.tensor([background, 0.0, foreground, 0.0])
    softmax = torch.tensor([background, foreground]).softmax(0)[1]
    torch.testing.assert_close(sigmoid_rows(rows).sigmoid()[0], softmax, atol=1e-6, rtol=1e-5)


def test_background_goes_from_first_to_last() -> None:
    rows = torch.tensor([[9.0, 9.0], [1.0, 1.0], [2.0, 2.0]])
    assert background_last(rows).tolist() == [[1, 1], [2, 2], [9, 9]]


@pytest.mark.parametrize(
    ("rows", "background", "kept"),
    [
        (12, "first", list(range(4, 12))),
        (12, "last", list(range(8))),
        (8, "first", list(range(8))),
        (4, "first", list(range(4))),
    ],
)
def test_box_rows_of_two_classes(rows: int, background: str, kept: list[int]) -> None:
    out = object_boxes(torch.arange(rows), classes=2, background=background)
    assert out.tolist() == kept


def test_box_rows_that_fit_no_layout() -> None:
    with pytest.raises(WeightsError, match="16 box rows fit neither 4 nor 2 classes"):
        object_boxes(torch.zeros(16), classes=2, background="last")


def test_a_folded_norm_multiplies_and_adds_exactly() -> None:
    scale, shift = torch.rand(64) * 5, torch.randn(64)
    norm = FrozenNorm(64)
    norm.load_state_dict(norm_from_affine(scale, shift))
    x = torch.randn(2, 64, 3, 3)
    assert torch.equal(norm(x), x * scale[:, None, None] + shift[:, None, None])
