"""One `Batch` for all tasks: padding, views and what may be left out."""

from __future__ import annotations

import pytest
import torch
from resdet.detection.structures import Annotation, Batch, Geometry, Sample


def image(height: int, width: int, value: int = 1) -> torch.Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def annotation(count: int) -> Annotation:
    boxes = torch.arange(4.0).repeat(count, 1)
    return Annotation(boxes, torch.zeros(count, dtype=torch.int64), torch.zeros(count).bool())


def test_padding_is_zero_at_the_right_and_bottom() -> None:
    batch = Batch.collate([Sample(image(2, 5)), Sample(image(4, 3))])
    assert batch.sizes == [(2, 5), (4, 3)] and batch.images.shape == (2, 3, 4, 5)
    assert batch.images[0, :, :2].min() == 1 and batch.images[0, :, 2:].max() == 0
    assert batch.images[1, :, :, :3].min() == 1 and batch.images[1, :, :, 3:].max() == 0
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_without_padding_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one size, got \[\(2, 5\), \(4, 3\)\]"):
        Batch.collate([Sample(image(2, 5)), Sample(image(4, 3))], pad=False)


def test_missing_fields_are_empty() -> None:
    batch = Batch.collate([Sample(image(2, 5), image_id="a", seed=7)])
    assert batch.annotations == [] and batch.geometries == [] and len(batch.labels) == 0
    assert batch.labels.dtype == torch.int64
    assert (batch.image_ids, batch.seeds) == (["a"], [7])


def test_fields_of_the_samples() -> None:
    samples = [
        Sample(image(2, 5), annotation(count), Geometry((2, 5)), label=label)
        for count, label in ((2, 4), (0, 3))
    ]
    batch = Batch.collate(samples).to("cpu")
    assert batch.labels.tolist() == [4, 3] and batch.geometries == [Geometry((2, 5))] * 2
    for sample, found in zip(samples, batch.annotations, strict=True):
        assert sample.annotation is not None
        assert torch.equal(found.boxes, sample.annotation.boxes)


def test_annotations_or_labels_of_some_images_only() -> None:
    with pytest.raises(ValueError, match="2 images, 1 annotations"):
        Batch.collate([Sample(image(2, 5), annotation(1)), Sample(image(2, 5))])
    with pytest.raises(ValueError, match="2 images, 1 labels"):
        Batch.collate([Sample(image(2, 5), label=1), Sample(image(2, 5))])


@pytest.mark.parametrize("other", [(2, 5), (3, 4)])
def test_views(other: tuple[int, int]) -> None:
    """Views of one size share their memory, and so their open file; others cannot."""
    samples = [
        Sample(
            image(2, 5), annotation(1), views=(Sample(image(*other, value)), Sample(image(2, 5)))
        )
        for value in (2, 3)
    ]
    batch = Batch.collate(samples)
    assert [tuple(view.images.shape[2:]) for view in batch.views] == [other, (2, 5)]
    assert batch.views[0].images[:, 0, 0, 0].tolist() == [2, 3]
    assert batch.views[0].annotations == [] and len(batch.annotations) == 2
    storages = {part.images.untyped_storage().data_ptr() for part in (batch, *batch.views)}
    assert len(storages) == (1 if other == (2, 5) else 3)
    for part in (batch, *batch.views):
        assert part.images.is_contiguous(memory_format=torch.channels_last)
