"""The nets for small images: the paper's Table 6, map sizes and shortcuts."""

from __future__ import annotations

import pytest
import torch
from resdet.backbones.blocks import PaddedIdentity
from resdet.backbones.resnet import CifarResNet
from torch import nn


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)]
)
def test_depth_and_parameters_of_table_6(depth: int, millions: float) -> None:
    assert depth in CifarResNet.depths
    with torch.device("meta"):
        models = [CifarResNet(depth, shortcut=option).classifier(10) for option in ("A", "none")]
    for model in models:
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth
        count = sum(parameter.numel() for parameter in model.parameters())
        assert round(count / 1e6, 2) == millions
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


def test_three_map_sizes() -> None:
    model = CifarResNet(20).classifier(10).eval()
    sizes = []
    for name in ("stem", "res2", "res3", "res4"):
        stage = model.get_submodule(name)
        stage.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_without_residuals_option_a_carries_the_stem_to_the_end() -> None:
    """Every block then passes its input: a quarter of the positions, zeros in the new channels."""
    model = CifarResNet(8, width=4).classifier(2).eval()
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        stem, features = model.stem(images), model.features(images)
    assert torch.equal(features[:, :4], stem[:, :, ::4, ::4])
    assert features.shape == (1, 16, 2, 2)
    assert not features[:, 4:].any()
    assert sum(isinstance(m, PaddedIdentity) for m in model.modules()) == 2


def test_without_residuals_a_plain_net_is_silent() -> None:
    model = CifarResNet(8, width=4, shortcut="none").classifier(2).eval()
    nn.init.zeros_(model.res4[0].conv2.weight)
    with torch.no_grad():
        assert not model.features(torch.randn(1, 3, 8, 8)).any()


@pytest.mark.parametrize("depth", [18, 2, 0, -4])
def test_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(depth).classifier(2)
