"""The Python interface: every kind of image, in displayed pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.errors import ConfigError, ImageError
from resdet.detection.inference.predictor import pick_device

RED = [10.0, 5.0, 30.0, 25.0]

#: What a viewer does to stored pixels, for the EXIF orientations 1..8 (TIFF 6.0, tag 274): how to
#: store an image so that it is displayed upright.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def close(boxes: torch.Tensor, expected: list[list[float]], within: float = 1.01) -> bool:
    """Resizing blurs the edge of a spot by a pixel."""
    return boxes.shape == (len(expected), 4) and torch.allclose(
        boxes, torch.tensor(expected), atol=within, rtol=0
    )


def test_paths_arrays_and_pil_images_give_the_same(predictor, spot, tmp_path):
    path = tmp_path / "spot.png"
    Image.fromarray(spot()).save(path)
    images = [path, str(path), spot(), Image.open(path)]
    results = predictor.predict(images)
    assert len(results) == 4
    for found in results:
        assert close(found.boxes, [RED])
        assert found.labels.tolist() == [0]
        assert torch.equal(found.boxes, results[0].boxes)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_pil", [False, True])
def test_boxes_are_in_the_displayed_frame_for_every_exif_orientation(
    predictor, spot, tmp_path, orientation, as_pil
):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](spot()))
    Image.fromarray(stored).save(path, exif=exif)
    prepared = predictor.prepare(Image.open(path) if as_pil else path)
    assert prepared.size == (40, 60)
    assert prepared.loaded.orientation == orientation
    assert np.array_equal(prepared.loaded.pixels, spot())
    (found,) = predictor.detect([prepared])
    assert close(found.boxes, [RED])


def test_threshold_keeps_equal_scores(predictor, spot):
    # Red covers 20 x 20 of 40 x 60, blue 30 x 24; at twice the size the shares stay the same.
    image = spot(blue=(28, 10, 58, 34))
    (everything,) = predictor.predict([image])
    assert everything.labels.tolist() == [0, 1]
    lower, higher = everything.scores.tolist()
    assert lower < higher
    (some,) = predictor.predict([image], score_threshold=higher)
    assert some.labels.tolist() == [1]
    (none,) = predictor.predict([image], score_threshold=1.0)
    assert none.boxes.shape == (0, 4)


def test_batches_hold_equal_shapes_only_and_results_keep_their_order(predictor, model, spot):
    wide, tall = spot(), spot(size=(60, 40))
    alone = [predictor.predict([image])[0] for image in (wide, tall)]
    model.shapes.clear()
    together = predictor.predict([wide, tall, wide, tall, wide], batch_size=4)
    assert model.shapes == [(2, 3, 80, 120), (2, 3, 120, 80), (1, 3, 80, 120)]
    for index, found in enumerate(together):
        assert torch.equal(found.boxes, alone[index % 2].boxes)


def test_no_images_give_no_results(predictor):
    assert predictor.predict([]) == []
    assert predictor.detect([]) == []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_pil_modes_become_rgb(predictor, spot, mode):
    image = Image.fromarray(spot())
    prepared = predictor.prepare(image.convert(mode))
    assert prepared.loaded.pixels.shape == (40, 60, 3)


def test_transparent_pixels_show_the_background(predictor, spot):
    image = Image.fromarray(spot()).convert("RGBA")
    image.putalpha(0)
    assert (predictor.prepare(image).loaded.pixels == 255).all()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((4, 4), np.uint8), "expected RGB"),
        (np.zeros((4, 4, 4), np.uint8), "expected RGB"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "expected RGB"),
        (Image.new("I;16", (4, 4)), "mode I;16"),
        ("missing.jpg", "missing.jpg"),
    ],
)
def test_unusable_images_are_named(predictor, wrong, reason):
    with pytest.raises(ImageError, match=reason):
        predictor.predict([wrong])


@pytest.mark.parametrize(
    "wrong", ["a.jpg", np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4))]
)
def test_one_image_without_a_list_is_refused(predictor, wrong):
    with pytest.raises(ConfigError, match="list"):
        predictor.predict(wrong)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    for wrong in ("gpu", "99", "cuda:99"):
        with pytest.raises(ConfigError, match=wrong):
            pick_device(wrong)
