"""Pixel statistics: values by hand, zero padding, and what a state dict carries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.backbones import pixels
from resdet.backbones.pixels import PIXELS, PixelNorm, name_pixels
from torchvision.models import ResNet50_Weights


def test_torchvision_entry_equals_torchvisions_own_preset() -> None:
    preset = ResNet50_Weights.IMAGENET1K_V2.transforms(crop_size=8, resize_size=8)
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    ours = PixelNorm(PIXELS["torchvision"])(image, [(8, 8)])
    torch.testing.assert_close(ours, preset(image), atol=1e-5, rtol=1e-5)


def test_msra_is_bgr_with_the_mean_subtracted() -> None:
    image = torch.tensor([123, 116, 103], dtype=torch.uint8).reshape(1, 3, 1, 1)
    out = PixelNorm(PIXELS["msra"])(image, [(1, 1)])
    torch.testing.assert_close(out.flatten(), torch.tensor([-0.53, -0.28, -0.675]))


def test_caffe_is_bgr() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    out = PixelNorm(PIXELS["caffe"])(red, [(1, 1)])
    torch.testing.assert_close(out.flatten(), torch.tensor([-102.9801, -115.9465, 132.2283]))


@given(st.integers(0, 5), st.integers(0, 7), st.sampled_from(sorted(PIXELS)))
def test_padding_is_zero_and_pixels_do_not_depend_on_it(h: int, w: int, name: str) -> None:
    norm = PixelNorm(PIXELS[name])
    image = torch.full((2, 3, 5, 7), 200, dtype=torch.uint8)
    out = norm(image, [(h, w), (5, 7)])
    assert out[0, :, h:].abs().sum() == 0
    assert out[0, :, :, w:].abs().sum() == 0
    assert torch.equal(out[0, :, :h, :w], out[1, :, :h, :w])
    assert (out[1] != 0).all()


@pytest.mark.parametrize("name", sorted(PIXELS))
def test_input_is_untouched_and_output_is_channels_last(name: str) -> None:
    image = torch.randint(0, 256, (2, 6, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    before = image.clone()
    out = PixelNorm(PIXELS[name])(image, [(6, 4), (2, 2)])
    assert torch.equal(image, before)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted(PIXELS))
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 1), (3, 4, 1), (0, 4, 4)])
def test_a_cpu_computes_in_rows_what_a_graph_computes_in_channels(
    name: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channels_last = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    part = torch.randint(0, 256, (size[0], 3, 9, 11), dtype=torch.uint8)[:, :, 2:7, 1:10]
    norm = PixelNorm(PIXELS[name])
    for images in (channels_last, channels_last.contiguous(), part, channels_last.float()):
        before = images.clone()
        found = norm.normalise(images)
        assert torch.equal(images, before)
        with monkeypatch.context() as patched:
            patched.setattr(pixels, "_is_traced", lambda: True)
            assert torch.equal(norm.normalise(images), found)


def test_no_images() -> None:
    out = PixelNorm(PIXELS["msra"])(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [])
    assert out.shape == (0, 3, 4, 4)


def test_sizes_must_match_the_images() -> None:
    with pytest.raises(ValueError, match="1 images but 2 sizes"):
        PixelNorm(PIXELS["msra"])(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [(4, 4), (4, 4)])


def test_state_dict_carries_the_channel_order() -> None:
    image = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    source, target = PixelNorm(PIXELS["msra"]), PixelNorm(PIXELS["torchvision"])
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(image, [(4, 4)]), source(image, [(4, 4)]))


@pytest.mark.parametrize("name", sorted(PIXELS))
def test_name_pixels_finds_each_entry(name: str) -> None:
    norm = PixelNorm(PIXELS[name])
    assert name_pixels(norm.mean, norm.std) == name


def test_name_pixels_accepts_detectron2_shapes_and_refuses_other_values() -> None:
    bgr = torch.tensor([103.53, 116.28, 123.675]).reshape(3, 1, 1)
    assert name_pixels(bgr, torch.ones(3, 1, 1)) == "msra"
    assert name_pixels(bgr.flip(0), torch.ones(3, 1, 1)) is None
    assert name_pixels(torch.zeros(1), torch.ones(1)) is None
