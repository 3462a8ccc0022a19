"""Is our ResNet torchvision's, with weights that came through the importer?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resdet.backbones.resnet import DEPTHS, ResNet, ResNetSpec
from resdet.backbones.weights import import_weights, load_into
from torch import nn
from torchvision.models import get_model


def with_random_statistics(model: nn.Module) -> nn.Module:
    """Norms as after training: fresh ones are the identity and would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.2, 0.8),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_equal_torchvision(depth: int, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(depth)
        theirs = with_random_statistics(get_model(f"resnet{depth}", num_classes=1000))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    converted = import_weights(tmp_path / "weights.pth")
    assert (converted.layout, converted.depth) == ("torchvision", depth)
    with torch.device("meta"):
        ours = ResNet(ResNetSpec(depth=depth))
    ours = ours.to_empty(device="cpu")
    load_into(ours, converted.tensors)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(images), ours.train()(images)  # frozen norms know no mode
    scale = expected.abs().max()
    assert scale > 0.1
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * scale


def test_the_table_of_the_paper() -> None:
    """Weighted layers: one convolution, those in the blocks, one fully connected."""
    for depth, (block, counts) in DEPTHS.items():
        per_block = 2 if block.expansion == 1 else 3
        assert 1 + per_block * sum(counts) + 1 == depth
    spec = ResNetSpec(depth=101)
    assert [spec.channels(stage) for stage in (2, 3, 4, 5)] == [256, 512, 1024, 2048]


def test_stride_in_moves_the_stride_of_three_blocks() -> None:
    for stride_in, strided in (("1x1", "conv1"), ("3x3", "conv2")):
        model = ResNet(ResNetSpec(depth=50, width=4, stride_in=stride_in), classes=2)
        strides = {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
        }
        halving = {f"res{k}.0.{layer}" for k in (3, 4, 5) for layer in (strided, "shortcut")}
        assert strides == halving | {"stem.conv1"}


def test_narrow_stem() -> None:
    model = ResNet(ResNetSpec(depth=50, width=4, stem_width=6), classes=2)
    assert model.stem.conv1.weight.shape == (6, 3, 7, 7)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)
