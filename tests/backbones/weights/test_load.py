"""Loading without gaps, the binding to pixels and stride, and files of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from resdet.backbones.resnet import ResNet
from resdet.backbones.weights.convert import Converted, convert
from resdet.backbones.weights.load import (
    check_binding,
    import_weights,
    load_into,
    read_converted,
    split_backbone,
    write_converted,
)
from resdet.detection.errors import ConfigError, WeightsError
from torch import Tensor, nn

Narrow = Callable[..., dict[str, Tensor]]


@pytest.fixture
def classifier(narrow_resnet: Narrow) -> Converted:
    return convert(narrow_resnet("resnet50", seed=0), "torchvision")


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def filled(module: nn.Module, value: float) -> dict[str, Tensor]:
    return {
        name: torch.full_like(tensor, value)
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def test_every_value_is_loaded_and_counters_are_optional() -> None:
    module = small()
    load_into(module, filled(module, 3.0))
    floats = [t for t in module.state_dict().values() if t.is_floating_point()]
    assert len(floats) == 6
    assert all((tensor == 3).all() for tensor in floats)


def test_all_faults_are_named_and_nothing_is_changed() -> None:
    module = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = filled(module, 3.0)
    del tensors["0.bias"]
    tensors["2.weight"] = torch.ones(1)
    tensors["0.weight"] = torch.ones(3, 5)
    tensors["1.running_var"] = torch.ones(3, dtype=torch.int64)
    with pytest.raises(WeightsError) as caught:
        load_into(module, tensors, source="a.pth")
    assert str(caught.value) == (
        "a.pth do not fit Sequential: 1 missing (0.bias), 1 unexpected (2.weight), 2 of another"
        " shape (0.weight (3, 5) for (3, 2); 1.running_var (3,) int64 for (3,))"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_only_listed_names_may_be_missing() -> None:
    module = small()
    tensors = filled(nn.Sequential(nn.Linear(2, 3)), 3.0)
    load_into(module, tensors, allow_missing=["1."])
    assert (module[0].weight == 3).all()
    assert (module[1].weight == 1).all()
    with pytest.raises(WeightsError, match=r"4 missing \(1\.weight"):
        load_into(module, tensors, allow_missing=["1"])  # no prefix: no dot
    with pytest.raises(WeightsError, match=r"3 missing \(1\.bias"):
        load_into(module, tensors, allow_missing=["1.weight"])
    with pytest.raises(WeightsError, match=r"1 unexpected \(fc\.bias\)"):
        load_into(module, tensors | {"fc.bias": torch.ones(1)}, allow_missing=["1."])


def test_module_without_tensors() -> None:
    load_into(nn.ReLU(), {})
    with pytest.raises(WeightsError, match="1 unexpected"):
        load_into(nn.ReLU(), {"a": torch.ones(1)})


def test_a_classifier_is_loaded_into_trunk_and_tail(classifier: Converted) -> None:
    tensors, notes = split_backbone(classifier.tensors, ResNet(18))
    backbone = ResNet(50, width=4)
    detector = nn.ModuleDict(
        {"trunk": backbone.trunk(), "roi_head": nn.ModuleDict({"res5": backbone.tail(stride=2)})}
    )
    load_into(detector, tensors)
    network = backbone.classifier()
    load_into(network, classifier.tensors)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        mean = detector["roi_head"]["res5"](detector["trunk"](images)).mean((2, 3))
        torch.testing.assert_close(network.fc(mean), network(images))
    assert len(notes) == 1
    assert notes[0].startswith("fc.weight, fc.bias: ")


def test_split_refuses_other_names() -> None:
    assert split_backbone({}, ResNet(18)) == ({}, ())
    with pytest.raises(WeightsError, match=r"trunk\.stem\.conv1\.weight is no tensor"):
        split_backbone({"trunk.stem.conv1.weight": torch.ones(1)}, ResNet(18))


def test_binding(classifier: Converted) -> None:
    check_binding(classifier, pixels="torchvision", stride_in="3x3")
    with pytest.raises(ConfigError) as caught:
        check_binding(classifier, pixels="msra", stride_in="1x1")
    message = str(caught.value)
    assert "backbone.pixels is msra, not torchvision" in message
    assert "backbone.stride_in is 1x1, not 3x3" in message
    assert message.endswith("set backbone.pixels=torchvision backbone.stride_in=3x3")
    with pytest.raises(ConfigError, match=r"set backbone\.stride_in=3x3$"):
        check_binding(classifier, pixels="torchvision", stride_in="1x1")


def test_basic_blocks_bind_no_stride(narrow_resnet: Narrow) -> None:
    converted = convert(narrow_resnet("resnet18", seed=0), "torchvision")
    check_binding(converted, pixels="torchvision", stride_in="1x1")


def test_archive_round_trip(classifier: Converted, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    write_converted(classifier, path)
    for again in (read_converted(path), import_weights(path)):
        assert again.tensors.keys() == classifier.tensors.keys()
        assert all(torch.equal(again.tensors[k], t) for k, t in classifier.tensors.items())
        for name in ("kind", "layout", "depth", "width", "pixels", "stride_in", "mapped", "unused"):
            assert getattr(again, name) == getattr(classifier, name)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_unusable_archives(classifier: Converted, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(classifier.tensors, path)
    with pytest.raises(WeightsError, match=r"a\.safetensors: not a converted weights file"):
        read_converted(path)
    safetensors.torch.save_file(classifier.tensors, path, {"resdet": "1", "kind": "[1"})
    with pytest.raises(WeightsError, match=r"a\.safetensors: damaged header"):
        import_weights(path)
    write_converted(classifier, path)
    with pytest.raises(WeightsError, match="already converted"):
        import_weights(path, pixels="msra")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"a\.safetensors: cannot read weights"):
        import_weights(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", "[1, 2]"),
        ("classes", '"cat"'),
        ("classes", '["cat", "cat"]'),
        ("classes", '["only one"]'),
        ("classes", "[" * 5000),
        ("depth", '"18"'),
        ("depth", "18.0"),
        ("depth", "[18]"),
        ("depth", "19"),
        ("width", "-1e3"),
        ("layout", '"nobody\'s"'),
        ("pixels", "{}"),
        ("stride_in", '"2x2"'),
        ("mapped", '[["one"]]'),
        ("notes", "null"),
        ("kind", '"detector"'),  # its heads are missing
    ],
)
def test_odd_headers(classifier: Converted, tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "a.safetensors"
    write_converted(classifier, path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    safetensors.torch.save_file(classifier.tensors, path, header | {field: value})
    with pytest.raises(WeightsError, match=r"a\.safetensors: (damaged header|a detector without)"):
        read_converted(path)


def test_import_names_the_file_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"features.0.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"a\.pth: unknown layout"):
        import_weights(path)


def test_import_of_a_plain_safetensors_file(narrow_resnet: Narrow, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(narrow_resnet("resnet18", seed=0), path)
    assert import_weights(path).depth == 18
