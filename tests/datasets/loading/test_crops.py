"""Crops show what the papers say, and only the seed decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.loading.augment import shift_colour
from resdet.datasets.loading.crop_geometry import random_part
from resdet.datasets.loading.crops import (
    CentreCrop,
    Crop,
    FullImage,
    PaddedCrop,
    PaperCrop,
    ResizedCrop,
    TenCrop,
)
from resdet.detection.errors import ConfigError
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

SIZES = st.tuples(st.integers(16, 90), st.integers(16, 90))


@dataclass(frozen=True)
class Spec:
    name: str
    params: dict[str, object] = field(default_factory=dict)


def places(height: int, width: int) -> np.ndarray:
    """An image whose red and green are the row and the column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=2)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------ paper's training


def test_paper_crop_without_resize_is_a_part_of_the_image() -> None:
    crop = PaperCrop((40, 40), 32, flip=0.0, colour_std=0.0)
    pixels = places(40, 60)
    seen = [crop(pixels, seed) for seed in range(400)]
    corners = {tuple(part[0, 0, :2].tolist()) for part in seen}
    for part in seen:
        y, x = part[0, 0, :2].tolist()
        assert np.array_equal(part, pixels[y : y + 32, x : x + 32])
    # Every row, and both ends of the columns: 9 x 29 places, evenly.
    assert {y for y, _ in corners} == set(range(9))
    assert min(x for _, x in corners) == 0 and max(x for _, x in corners) == 28
    assert abs(np.mean([x for _, x in corners]) - 14) < 2


def test_paper_crop_flips_with_its_probability() -> None:
    pixels = places(32, 32)
    flipped = [bool(PaperCrop((32, 32), 32, 0.25, 0.0)(pixels, n)[0, 0, 1]) for n in range(800)]
    assert abs(np.mean(flipped) - 0.25) < 0.05


def test_paper_crop_draws_every_shorter_side() -> None:
    """An image of one column gradient: the crop's span shows how much it was enlarged."""
    pixels = np.repeat(np.linspace(0, 255, 100).astype(np.uint8)[None, :, None], 100, 0)
    pixels = np.repeat(pixels, 3, 2)
    crop = PaperCrop((100, 104), 100, flip=0.0, colour_std=0.0)
    spans = {int(np.ptp(crop(pixels, seed).numpy()[50, :, 0])) for seed in range(60)}
    assert max(spans) == 255 and min(spans) < 250  # uncut at 100, a twenty-sixth cut at 104


def test_colour_shift_worked_by_hand() -> None:
    pixels = np.array([[[100, 100, 100], [0, 250, 3]]], np.uint8)
    # The first component alone, multiple -1: 0.2175 * 255 = 55.4625 times (.5675, .5808, .5836).
    shifted = shift_colour(pixels, np.array([-1.0, 0.0, 0.0]))
    assert shifted.tolist() == [[[131, 132, 132], [31, 255, 35]]]
    assert shift_colour(pixels, np.zeros(3)) is pixels


def test_colour_shift_has_the_std_of_the_components() -> None:
    pixels = np.full((32, 32, 3), 128, np.uint8)
    crop = PaperCrop((32, 32), 32, colour_std=0.1)
    means = np.array([crop(pixels, seed)[0, 0].tolist() for seed in range(1500)])
    # Red: 25.5 * sqrt((.5675 * .2175)^2 + (.7192 * .0188)^2 + (.4009 * .0045)^2) = 3.166
    assert abs(means[:, 0].std() - 3.17) < 0.25
    assert abs(means.mean() - 128) < 0.3


# ----------------------------------------------------------------------------- modern training


@settings(max_examples=60)
@given(SIZES, st.integers(0, 999))
def test_random_parts_lie_inside_and_have_their_size(size: tuple[int, int], seed: int) -> None:
    height, width = size
    y, x, h, w = random_part(size, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
    assert 0 <= y <= y + h <= height and 0 <= x <= x + w <= width and h and w
    # Sides are rounded to pixels.
    assert (h - 1) * (w - 1) <= height * width
    if min(height, width) / max(height, width) > 0.8:
        assert (h + 1) * (w + 1) >= 0.08 * height * width
        assert (w - 1) / (h + 1) < 4 / 3 and (w + 1) / (h - 1) > 3 / 4


def test_random_parts_have_the_distribution_of_torchvision() -> None:
    ours, theirs = [], []
    image = torch.zeros(3, 200, 300)
    random = np.random.default_rng(1)
    torch.manual_seed(1)
    reference = v2.RandomResizedCrop(8)
    for _ in range(3000):
        y, x, h, w = random_part((200, 300), (0.08, 1.0), (3 / 4, 4 / 3), random)
        ours.append([y, x, h, w])
        drawn = reference.make_params([image])
        theirs.append([drawn[name] for name in ("top", "left", "height", "width")])
    for one, two in zip(np.array(ours).T, np.array(theirs).T, strict=True):
        assert abs(one.mean() - two.mean()) < 0.06 * two.mean()
        assert abs(one.std() - two.std()) < 0.06 * two.std()


def test_a_very_long_image_gives_its_middle() -> None:
    assert random_part((10, 1000), (0.9, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0)) == (
        *(0, 493),  # a part of 10 x 13
        *(10, 13),
    )
    assert random_part((90, 3), (0.9, 1.0), (1.0, 1.0), np.random.default_rng(0)) == (43, 0, 3, 3)


def test_resized_crop_of_the_whole_is_the_resize() -> None:
    pixels = places(32, 32)
    crop = ResizedCrop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    assert np.array_equal(crop(pixels, 3), pixels)
    flipped = ResizedCrop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
    assert np.array_equal(flipped(pixels, 3), pixels[:, ::-1])


def test_resized_crop_jitters_colours_by_the_seed() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    jitter = Spec("ColorJitter", {"brightness": [0.5, 1.5], "p": 1.0})
    crop = ResizedCrop(16, augment=(jitter,))
    means = {seed: crop(grey, seed).float().mean().item() for seed in range(8)}
    assert len(set(means.values())) > 5
    assert means == {seed: crop(grey, seed).float().mean().item() for seed in range(8)}


def test_resized_crop_takes_no_geometric_transform() -> None:
    with pytest.raises(ConfigError, match="Rotate"):
        ResizedCrop(augment=(Spec("Rotate"),))
    with pytest.raises(ConfigError, match="did you mean 'ColorJitter'"):
        ResizedCrop(augment=(Spec("ColourJitter"),))


# -------------------------------------------------------------------------------------- testing


@pytest.mark.parametrize("upright", [False, True])
def test_ten_crops_by_hand(upright: bool) -> None:
    """A strip of 4 x 10 whose pixels have their column as colour: the square is columns 3 to 7, as
    AlexNet cut it, and nothing outside is seen."""
    strip = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None], (4, 10, 3))
    views = TenCrop(4, 2)(np.ascontiguousarray(strip.transpose(1, 0, 2) if upright else strip))
    seen = views[..., 0].numpy()
    line = [view[:, 0] if upright else view[0] for view in seen]
    if upright:
        assert [list(v) for v in line[:5]] == [[3, 4], [3, 4], [5, 6], [5, 6], [4, 5]]
    else:
        assert [list(v) for v in line[:5]] == [[3, 4], [5, 6], [3, 4], [5, 6], [4, 5]]
        assert [list(v) for v in line[5:]] == [[6, 5], [4, 3], [6, 5], [4, 3], [5, 4]]


@settings(max_examples=40)
@given(st.integers(24, 60), st.integers(24, 60), st.integers(1, 24))
def test_ten_crops_are_those_of_torchvision(height: int, width: int, size: int) -> None:
    """Of the middle square."""
    pixels, side = noise(height, width), min(height, width)
    ours = TenCrop(side, size)(pixels, 0)
    square = v2.CenterCrop(side)(torch.from_numpy(pixels).permute(2, 0, 1))
    theirs = v2.TenCrop(size)(square)
    assert torch.equal(ours.permute(0, 3, 1, 2), torch.stack(list(theirs)))


@settings(max_examples=40)
@given(st.integers(24, 60), st.integers(24, 60), st.integers(1, 24))
def test_the_centre_is_that_of_torchvision(height: int, width: int, size: int) -> None:
    pixels = noise(height, width)
    ours = CentreCrop(min(height, width), size)(pixels, 0)
    theirs = v2.CenterCrop(size)(torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(ours.permute(2, 0, 1), theirs)
    square = CentreCrop(min(height, width), min(height, width))(pixels, 0).numpy()
    middle = CentreCrop(min(height, width), size)(square, 0)
    assert torch.equal(middle, TenCrop(min(height, width), size)(pixels, 0)[4])
    assert torch.equal(CentreCrop(min(height, width), size, True)(pixels, 0), ours.flip(1))


@settings(max_examples=40)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(8, 60), st.integers(1, 60))
@example(480, 640, 232, 224)
@example(334, 500, 256, 224)  # 383.2 and, below, 384.8 columns, which torchvision rounds down
@example(500, 333, 256, 224)
def test_pillows_resize_is_that_of_torchvision(
    height: int, width: int, side: int, size: int
) -> None:
    """Every pixel, of the transforms that come with torchvision's weights."""
    pixels, size = noise(height, width), min(side, size)
    transforms = ImageClassification(
        crop_size=size, resize_size=side, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    theirs = transforms(Image.fromarray(pixels)).permute(1, 2, 0)
    ours = CentreCrop(side, size, resampling="pillow")(pixels)
    assert torch.equal(ours.float(), theirs.round()) and ours.shape == (size, size, 3)
    whole = FullImage(side, resampling="pillow")
    resized = np.asarray(v2.Resize(side)(Image.fromarray(pixels)))
    assert np.array_equal(whole(pixels).numpy(), resized)
    place = whole.place((height, width))
    corners = torch.tensor([0.0, 0, width, height])
    assert place.apply(corners).tolist() == [0, 0, resized.shape[1], resized.shape[0]]
    ten = TenCrop(side, size, "pillow")(pixels)
    square = CentreCrop(side, side, resampling="pillow")(pixels).numpy()
    assert torch.equal(ten[4], CentreCrop(side, size)(square))


def test_full_image_keeps_the_shape() -> None:
    assert FullImage(64)(noise(100, 150), 0).shape == (64, 96, 3)
    whole = FullImage(30)(noise(30, 50), 0)
    assert torch.equal(whole.flip(1), FullImage(30, flipped=True)(noise(30, 50), 0))
    assert not FullImage(64).fixed and CentreCrop().fixed


# ------------------------------------------------------------------------------------ every crop

CROPS = [
    PaperCrop((24, 40), 24),
    PaperCrop((24, 24), 16, colour_std=0.0),
    ResizedCrop(24),
    PaddedCrop(24, 3),
    CentreCrop(28, 24),
    TenCrop(28, 24),
    FullImage(24),
]


@settings(max_examples=25)
@given(SIZES, st.integers(0, 2**63 - 1), st.sampled_from(CROPS))
def test_only_the_seed_decides(size: tuple[int, int], seed: int, crop: Crop) -> None:
    pixels = noise(*size)
    before = pixels.copy()
    pixels.flags.writeable = False
    first, state = crop(pixels, seed), np.random.get_state()[1].tolist()
    assert torch.equal(first, crop(pixels, seed))
    assert np.array_equal(pixels, before) and np.random.get_state()[1].tolist() == state
    assert first.dtype == torch.uint8 and first.is_contiguous() and first.shape[-1] == 3
    if crop.fixed:
        assert first.shape[-3] == first.shape[-2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PaperCrop((200, 300), 224),
        lambda: PaperCrop((480, 256), 224),
        lambda: ResizedCrop(scale=(0.5, 1.5)),
        lambda: ResizedCrop(ratio=(2.0, 1.0)),
        lambda: CentreCrop(200, 224),
        lambda: TenCrop(200, 224),
    ],
)
def test_impossible_sizes(make: Callable[[], Crop]) -> None:
    with pytest.raises(ConfigError, match="crop"):
        make()


# ------------------------------------------------------------------------------- small images

SMALL = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)


def test_all_shifts_and_both_sides_occur_and_nothing_else() -> None:
    """A place of the 3 x 3 for padding 1, times two; what comes from outside is black."""
    larger = np.zeros((8, 8, 3), np.uint8)
    larger[1:7, 1:7] = SMALL
    parts = [larger[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    expected = {part.tobytes() for part in [*parts, *(part[:, ::-1] for part in parts)]}
    crop = PaddedCrop(size=6, padding=1)
    assert {crop(SMALL, seed).numpy().tobytes() for seed in range(300)} == expected


def test_without_padding_or_flip_it_is_the_image() -> None:
    assert np.array_equal(PaddedCrop(6, padding=0, flip=0.0)(SMALL, 5).numpy(), SMALL)


def test_other_images_are_resized_first() -> None:
    assert PaddedCrop(6)(np.zeros((12, 18, 3), np.uint8), 0).shape == (6, 6, 3)
