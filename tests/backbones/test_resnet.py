"""ImageNet networks against torchvision's; networks for small images against Table 6."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resdet.backbones.blocks import PaddedIdentity
from resdet.backbones.resnet import DEPTHS, CifarResNet, ResNet
from resdet.backbones.weights.load import import_weights, load_into
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
        ours = ResNet(depth=depth).classifier()
    ours = ours.to_empty(device="cpu")
    load_into(ours, converted.tensors)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(images), ours.train()(images)  # frozen norms know no mode
    scale = expected.abs().max()
    assert scale > 0.1
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * scale


def test_the_table_of_the_paper() -> None:
    """Weighted layers: one convolution, those in the blocks, one fully connected."""
    for depth, (block, counts) in DEPTHS.items():
        per_block = 2 if block.expansion == 1 else 3
        assert 1 + per_block * sum(counts) + 1 == depth
    backbone = ResNet(depth=101)
    assert [backbone.channels_of(f"res{stage}") for stage in (2, 3, 4, 5)] == [256, 512, 1024, 2048]


@pytest.mark.parametrize("depth", DEPTHS)
def test_names_and_sizes_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        ours = ResNet(depth=depth, norm="batch").classifier()
        theirs = get_model(f"resnet{depth}")
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    millions = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}
    assert counts[0] == counts[1]
    assert round(counts[0] / 1e6, 2) == millions[depth]


@pytest.mark.parametrize("depth", [18, 34])
def test_a_plain_net_has_the_same_layers_and_option_a_no_more(depth: int) -> None:
    states = {}
    for option in ("A", "B", "C", "none"):
        backbone = ResNet(depth=depth, width=4, norm="batch", shortcut=option)
        states[option] = set(backbone.classifier(2).state_dict())
    blocks = sum(DEPTHS[depth][1])
    projections = {
        option: {name for name in names if name.endswith("shortcut.weight")}
        for option, names in states.items()
    }
    assert states["none"] == states["A"] == {n for n in states["B"] if ".shortcut." not in n}
    assert projections["B"] == {f"res{stage}.0.shortcut.weight" for stage in (3, 4, 5)}
    assert len(projections["C"]) == blocks


def test_he_initialisation() -> None:
    """Variance 2 / fan of the convolutions, norms 1 and 0; activations keep their size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(depth=18, norm="batch").classifier(50)
    layer = model.res4[1].conv2
    assert layer.weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    assert layer.norm.weight.eq(1).all()
    assert layer.norm.bias.eq(0).all()
    assert model.fc.weight.var().item() == pytest.approx(1 / 512, rel=0.05)
    assert model.fc.bias.eq(0).all()


def test_the_last_layer_reads_the_mean_of_the_features() -> None:
    model = ResNet(depth=18, width=4, norm="batch").classifier(3).eval()
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.features(images)
        assert features.shape == (2, 32, 3, 2)
        dense = nn.functional.conv2d(features, model.fc.weight[..., None, None], model.fc.bias)
        torch.testing.assert_close(dense.mean((2, 3)), model(images))


def test_stride_in_moves_the_stride_of_three_blocks() -> None:
    for stride_in, strided in (("1x1", "conv1"), ("3x3", "conv2")):
        model = ResNet(depth=50, width=4, stride_in=stride_in).classifier(2)
        strides = {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
        }
        halving = {f"res{k}.0.{layer}" for k in (3, 4, 5) for layer in (strided, "shortcut")}
        assert strides == halving | {"stem.conv1"}


def test_narrow_stem() -> None:
    model = ResNet(depth=50, width=4, stem_width=6).classifier(2)
    assert model.stem.conv1.weight.shape == (6, 3, 7, 7)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)


# -- small images --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "millions"),
    [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73), (1202, 19.42)],
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


def test_without_residuals_a_plain_net_gives_zeros() -> None:
    model = CifarResNet(8, width=4, shortcut="none").classifier(2).eval()
    nn.init.zeros_(model.res4[0].conv2.weight)
    with torch.no_grad():
        assert not model.features(torch.randn(1, 3, 8, 8)).any()


@pytest.mark.parametrize("depth", [18, 2, 0, -4])
def test_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(depth).classifier(2)
