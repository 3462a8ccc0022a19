"""The per-class head against dense layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.models.class_head import ClassHead


def make_head(channels: int, classes: int, anchors: int, *, shared: bool = False) -> ClassHead:
    torch.manual_seed(0)
    head = ClassHead(channels, classes, anchors, shared=shared)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def dense(head: ClassHead, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two 1x1 convolutions over the whole map: logits (K, h, w, A) and deltas (K, h, w, A, 4)."""
    layers = (head.cls_logits, head.box_deltas)
    logits, deltas = (
        F.conv2d(
            features[None], layer.weight.flatten(0, 1)[:, :, None, None], layer.bias.flatten()
        )[0].unflatten(0, layer.bias.shape)
        for layer in layers
    )
    logits = logits.permute(0, 2, 3, 1)
    deltas = deltas.permute(0, 2, 3, 1).unflatten(3, (-1, 4))
    if head.shared:
        logits = logits.expand(-1, -1, -1, head.anchors)
        deltas = deltas.expand(-1, -1, -1, head.anchors, -1)
    return logits, deltas


@pytest.mark.parametrize("shared", [False, True])
@settings(max_examples=20)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9)
)
def test_all_methods_equal_dense_layers(
    shared: bool, classes: int, anchors: int, height: int, width: int, seed: int
) -> None:
    head = make_head(3, classes, anchors, shared=shared)
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(3, height, width, generator=random)
    rows = features.flatten(1).t()
    logits, deltas = dense(head, features)

    labels = torch.randint(classes, (4,), generator=random)
    some_logits, some_deltas = head(rows, labels)
    torch.testing.assert_close(some_logits, logits[labels].flatten(1))
    torch.testing.assert_close(some_deltas, deltas[labels].flatten(1, 3))

    anchor = torch.randint(anchors, (4,), generator=random)
    position = torch.randint(height * width, (4,), generator=random)
    flat_logits, flat_deltas = logits.flatten(1, 2), deltas.flatten(1, 2)
    picked = head.logits_at(rows[position], anchor, labels)
    torch.testing.assert_close(picked, flat_logits[labels, position, anchor])
    every = head.all_logits_at(rows[position], anchor)
    torch.testing.assert_close(every, flat_logits[:, position, anchor].t())
    boxes = head.deltas_at(rows[position], anchor, labels)
    torch.testing.assert_close(boxes, flat_deltas[labels, position, anchor])


def test_no_labels_give_empty_outputs() -> None:
    head = make_head(3, 2, 2)
    none = torch.zeros(0, dtype=torch.int64)
    logits, deltas = head(torch.randn(4, 3), none)
    assert logits.shape == (0, 8) and deltas.shape == (0, 8, 4)
    assert head.logits_at(torch.zeros(0, 3), none, none).shape == (0,)
    assert head.all_logits_at(torch.zeros(0, 3), none).shape == (0, 2)
    assert head.deltas_at(torch.zeros(0, 3), none, none).shape == (0, 4)


def test_no_samples_still_give_a_gradient() -> None:
    """Processes wait for each other's gradients."""
    none, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3)
    for every_class in (False, True):
        head = make_head(3, 2, 2)
        logits = head.all_logits_at(rows, none) if every_class else head.logits_at(rows, none, none)
        (logits.sum() + head.deltas_at(rows, none, none).sum()).backward()
        gradients = [parameter.grad for parameter in head.parameters()]
        assert all(one is not None and not one.any() for one in gradients)


def test_only_requested_rows_get_a_gradient() -> None:
    head = make_head(3, 5, 2)
    sample = torch.tensor([1])
    head.logits_at(torch.ones(1, 3), sample, torch.tensor([4])).sum().backward()
    gradient = head.cls_logits.weight.grad
    assert gradient is not None
    assert gradient.nonzero().tolist() == [[4, 1, channel] for channel in range(3)]
