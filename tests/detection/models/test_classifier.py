"""The classifier: losses, the fully-convolutional form, and building from a config."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from resdet.backbones.pixels import PIXELS, PixelNorm
from resdet.backbones.resnet import ResNet
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import read_config
from resdet.detection.models.classifier import Classifier
from resdet.detection.structures import Batch, Sample
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.detection.tasks.classifier_network import train_crop

CLASSES = 6


@pytest.fixture(scope="module")
def model() -> Classifier:
    """ResNet-18 of 4 channels with statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    network = ResNet(depth=18, width=4, norm="batch").classifier(CLASSES)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_()
    return Classifier(PixelNorm(PIXELS["torchvision"]), network, window=2).eval()


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    pixels = np.stack([make_image(height, width, seed) for seed in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------ losses


class Fixed(torch.nn.Module):
    """Returns the given logits."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def batch(*labels: int) -> Batch:
    blank = torch.zeros(4, 4, 3, dtype=torch.uint8)
    return Batch.collate([Sample(blank, image_id="p", label=label) for label in labels], pad=False)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        # Softmax of (log 6, log 2, 0, 0) is (.6, .2, .1, .1).
        (0.0, -math.log(0.6)),
        (0.4, -(0.7 * math.log(0.6) + 0.1 * (math.log(0.2) + 2 * math.log(0.1)))),
    ],
)
def test_loss_and_error_by_hand(smoothing: float, expected: float) -> None:
    row = [math.log(6), math.log(2), 0.0, 0.0]
    network = Fixed([row, row])
    classifier = Classifier(
        PixelNorm(PIXELS["torchvision"]),
        network,  # type: ignore[arg-type]  # only called
        window=1,
        label_smoothing=smoothing,
    )
    right = classifier(batch(0, 0))
    assert right["loss_cls"].item() == pytest.approx(expected, rel=1e-6)
    assert right["top1_error"].item() == 0
    assert classifier(batch(0, 3))["top1_error"].item() == 0.5


# ------------------------------------------------------------------- fully-convolutional form


@torch.inference_mode()
def test_dense_logits_at_the_training_size_are_those_of_one_crop(model: Classifier) -> None:
    pixels = images(64, 64)  # 2 x 2 cells, the window
    torch.testing.assert_close(model.dense_logits(pixels), model.logits(pixels))


@torch.inference_mode()
def test_dense_logits_equal_a_loop_over_positions(model: Classifier) -> None:
    pixels = images(96, 130)  # 3 x 5 cells, 2 x 4 windows
    features = model.network.features(model.pixels.normalise(pixels))
    assert features.shape[2:] == (3, 5)
    answers = [
        model.network.fc(features[:, :, y : y + 2, x : x + 2].mean(dim=(2, 3)))
        for y in range(2)
        for x in range(4)
    ]
    dense = model.dense_logits(pixels)
    torch.testing.assert_close(dense, torch.stack(answers).mean(dim=0))
    assert not torch.allclose(dense, model.logits(pixels), atol=1e-3)


@torch.inference_mode()
def test_an_image_smaller_than_the_window_is_one_position(model: Classifier) -> None:
    pixels = images(32, 32)
    torch.testing.assert_close(model.dense_logits(pixels), model.logits(pixels))


# -------------------------------------------------------------------------------------- build


@pytest.mark.parametrize(("kind", "size"), [("paper", 40), ("resized", 40), ("padded", 40)])
def test_crops_are_of_the_configured_size(kind: str, size: int) -> None:
    config = ClassifierConfig.model_validate(
        {"crop": {"kind": kind, "size": size, "short_sides": (44, 60)}}
    )
    assert train_crop(config)(make_image(50, 50), 3).shape == (size, size, 3)


def test_the_window_is_the_last_map_of_a_training_crop() -> None:
    """224 pixels end as 7 x 7 cells, 112 as 4 x 4; 32 of the small nets as 8 x 8. The layer `fc`
    has learned from means over that many cells, whatever the size of testing."""
    modern = read_config(ClassifierConfig, "imagenet_modern_r50")
    assert (modern.crop.size, modern.test.size) == (176, 224)
    assert CLASSIFICATION.build(modern, 3).window == 6
    sizes = {"resnet": (18, ((224, 7), (112, 4))), "cifar": (20, ((32, 8), (33, 9)))}
    for family, (depth, cases) in sizes.items():
        for size, cells in cases:
            config = ClassifierConfig.model_validate(
                {
                    "network": {"family": family, "depth": depth, "width": 4},
                    "crop": {"size": size, "kind": "resized"},
                }
            )
            model = CLASSIFICATION.build(config, 3).eval()
            with torch.inference_mode():
                features = model.network.features(torch.zeros(1, 3, size, size))
            assert model.window == cells
            assert features.shape[2:] == (cells, cells)


def test_weights_follow_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        config = ClassifierConfig.model_validate(
            {"network": {"depth": 18, "width": 4}, "train": {"seed": seed}}
        )
        return CLASSIFICATION.build(config, 3).network.fc.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_depth_must_belong_to_the_family() -> None:
    with pytest.raises(ValueError, match="20, 32, 44, 56, 110 or 1202 for family cifar"):
        ClassifierConfig.model_validate({"network": {"family": "cifar", "depth": 18}})
