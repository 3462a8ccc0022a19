"""BN statistics against a computation over all the data at once, in float64."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.backbones import exact_bn
from resdet.backbones.exact_bn import Method, Moments, exact_statistics, passes
from resdet.backbones.norm import ConvNorm
from resdet.backbones.resnet import CifarResNet, ResNet
from resdet.detection.errors import ConfigError, DataError
from torch import Tensor, nn

METHODS: tuple[Method, ...] = ("pooled", "layered")


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    offset=st.sampled_from([0.0, 1e6]),
    part=st.integers(1, 40),
)
@settings(max_examples=50)
def test_moments_of_parts_are_those_of_the_whole(
    counts: list[int], offset: float, part: int
) -> None:
    generator = torch.Generator().manual_seed(len(counts))
    groups = [torch.randn(n, 3, 2, 2, generator=generator) + offset for n in counts]
    moments = Moments()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_bn, "PART", part)
        for group in groups:
            moments.add(group)
    whole = torch.cat(groups).double().transpose(0, 1).flatten(1).numpy()
    assert moments.count == whole.shape[1]
    assert moments.mean.numpy() == pytest.approx(whole.mean(1), rel=1e-12)
    assert moments.variance.numpy() == pytest.approx(whole.var(1), rel=1e-9)


def test_moments_without_values() -> None:
    moments = Moments()
    moments.add(torch.zeros(0, 3, 2, 2))
    with pytest.raises(ValueError, match="no values"):
        _ = moments.variance


class ByHand:
    """A basic-block net computed with torch's functions over one tensor that is all the data.

    Every norm takes mean and variance of its whole input, which is both what the layered method
    promises and what one batch of everything gives the pooled one.
    """

    def __init__(self, network: ResNet) -> None:
        self.found: dict[str, tuple[Tensor, Tensor]] = {}
        self.layers = dict(deepcopy(network).double().named_modules())

    def conv(self, name: str, x: Tensor) -> Tensor:
        layer = self.layers[name]
        x = F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        self.found[name] = mean, var
        return F.batch_norm(x, mean, var, layer.norm.weight, layer.norm.bias, eps=1e-5)

    @torch.no_grad()
    def run(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        x = F.max_pool2d(self.conv("stem.conv1", images.double()).relu(), 3, 2, 1)
        for stage in (2, 3, 4, 5):
            for index in (0, 1):
                block = f"res{stage}.{index}"
                y = self.conv(f"{block}.conv1", x).relu()
                y = self.conv(f"{block}.conv2", y)
                beside = (
                    self.conv(f"{block}.shortcut", x)
                    if isinstance(self.layers[f"{block}.shortcut"], ConvNorm)
                    else x
                )
                x = (y + beside).relu()
        return self.found


def network(width: int = 4) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(18, width=width, norm="batch").classifier(3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                nn.init.uniform_(module.running_mean, -1, 1)
    return model


def make_images(count: int = 22) -> Tensor:
    """With different means, so that small batches have other statistics than the whole."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(count, 3, 1, 1, generator=generator) * 2
    return torch.randn(count, 3, 64, 64, generator=generator) + means


def compute(model: nn.Module, images: Tensor, batch: int, method: Method) -> None:
    exact_statistics(model, lambda: iter(images.split(batch)), model, method=method)


def errors(model: ResNet, truth: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Of every mean in stds and of every variance in itself."""
    layers = dict(model.named_modules())
    found = []
    for name, (mean, var) in truth.items():
        norm = layers[name].norm
        found += [(norm.running_mean - mean).abs() / var.sqrt(), (norm.running_var / var - 1).abs()]
    return torch.cat(found)


@pytest.mark.parametrize(("method", "batch"), [("layered", 5), ("layered", 22), ("pooled", 22)])
def test_equal_to_all_data_at_once_in_float64(method: Method, batch: int) -> None:
    model, images = network(), make_images()
    truth = ByHand(model).run(images)
    assert len(truth) == 20
    assert errors(model, truth).max() > 0.5
    compute(model, images, batch, method)
    assert errors(model, truth).max() < 1e-5


def test_pooled_is_exact_for_its_inputs_and_approaches_layered_with_larger_batches() -> None:
    images, means = make_images(), []
    truth = ByHand(network()).run(images)
    for batch in (2, 11):
        model = network()
        compute(model, images, batch, "pooled")
        means.append(errors(model, truth).mean())
        # The first norm comes before every other: no batch's statistics reach its input.
        mean, var = truth["stem.conv1"]
        torch.testing.assert_close(model.stem.conv1.norm.running_mean, mean.float())
        torch.testing.assert_close(model.stem.conv1.norm.running_var, var.float())
    assert 1e-3 < means[1] < means[0] / 1.5


def test_pooled_variance_counts_the_difference_between_batches() -> None:
    """Two batches, constant in themselves: every batch's own variance is 0."""
    layer = ConvNorm(1, 1, 1, norm="batch")
    nn.init.ones_(layer.weight)
    images = torch.tensor([1.0, 1.0, 5.0, 5.0]).reshape(4, 1, 1, 1)
    compute(layer, images, 2, "pooled")
    assert (layer.norm.running_mean.item(), layer.norm.running_var.item()) == (3.0, 4.0)


@pytest.mark.parametrize("method", METHODS)
def test_uneven_batches_count_by_their_images(method: Method) -> None:
    layer = ConvNorm(1, 1, 1, norm="batch")
    nn.init.ones_(layer.weight)
    images = torch.tensor([0.0, 0.0, 0.0, 4.0, 6.0]).reshape(5, 1, 1, 1)
    exact_statistics(layer, lambda: [images[:3], images[3:]], layer, method=method)
    assert (layer.norm.running_mean.item(), layer.norm.running_var.item()) == (
        2.0,
        pytest.approx(6.4),
    )


def test_after_the_layered_method_every_norm_gives_mean_0_and_variance_1() -> None:
    model, images = CifarResNet(8, width=4).classifier(2), make_images()[..., :16, :16]
    compute(model, images, 6, "layered")
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, ConvNorm):
            nn.init.ones_(module.norm.weight)
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
            break
    with torch.no_grad():
        model.eval()(images)
    assert seen[0].mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(seen[0].var((0, 2, 3), unbiased=False), torch.ones(4))


@pytest.mark.parametrize("method", METHODS)
def test_number_of_passes(method: Method) -> None:
    model, images, started = network(), make_images(4), []

    def batches() -> list[Tensor]:
        started.append(1)
        return list(images.split(2))

    assert exact_statistics(model, batches, model, method=method) == 20
    look_at_order = 1 if method == "layered" else 0
    assert len(started) == passes(model, method) + look_at_order == (21 if look_at_order else 1)


@pytest.mark.parametrize("method", METHODS)
def test_modes_weights_and_hooks_are_restored(method: Method) -> None:
    model = network()
    model.train()
    model.res2.eval()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    compute(model, make_images(4), 2, method)
    assert model.res3.training
    assert not model.res2[0].conv1.norm.training
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_errors_without_norms_or_images(method: Method) -> None:
    run = partial(exact_statistics, method=method)
    frozen = ResNet(18, width=4, norm="frozen").classifier()
    with pytest.raises(ConfigError, match="no batch norm"):
        run(frozen, lambda: [torch.zeros(1, 3, 32, 32)], frozen)
    model = network()
    with pytest.raises(DataError, match="no images"):
        run(model, list, model)
    with pytest.raises(DataError, match="another batch size"):
        run(model, lambda: [torch.zeros(1, 3, 32, 32)], model)


def test_other_errors_pass_through() -> None:
    def fail(_: Tensor) -> Callable[[], None]:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        exact_statistics(network(), lambda: [torch.zeros(1, 3, 32, 32)], fail)
