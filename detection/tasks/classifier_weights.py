"""Classifiers from files: what training starts from, or what is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...backbones.weights.fetch import resolve
from ...backbones.weights.load import check_binding, import_weights, load_into
from ..config.classifier import ClassifierConfig, NetworkConfig
from ..config.files import check_dict, override
from ..engine.checkpoint import expect_task, load_checkpoint
from ..errors import ConfigError, WeightsError
from .class_layers import ClassLayers, Stored, fit_classes, join_classes
from .classifier import LoadedClassifier, build_classifier

StoredClassifier = Stored[ClassifierConfig]
_FC = "network.fc."


def _reorder(tensors: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    rows = torch.tensor(order)
    return {
        name: tensor[rows] if name.startswith(_FC) else tensor for name, tensor in tensors.items()
    }


CLASS_LAYERS = ClassLayers((_FC,), _reorder, "the last layer starts anew")


def load_classifier(
    path: Path,
    device: str | torch.device = "cpu",
    *,
    base: ClassifierConfig | None = None,
    overrides: Sequence[str] = (),
) -> LoadedClassifier:
    """A trained classifier in evaluation mode, from a checkpoint.

    ``base`` takes the place of the configuration inside; its network must be the same.

    Raises:
        WeightsError: unreadable, a detector's, or it does not fit its configuration.
        ConfigError: ``base`` describes another network.
    """
    stored = read_stored(path)
    if base is not None:
        _expect_same_network(base.network, stored.config.network, path)
        stored = replace(stored, config=base)
    return _classifier(stored, path, device, overrides)


def load_classifiers(
    paths: Sequence[Path],
    device: str | torch.device = "cpu",
    *,
    base: ClassifierConfig | None = None,
    overrides: Sequence[str] = (),
) -> LoadedClassifier:
    """A classifier, or an ensemble of several: the first one leads, with its configuration (or
    ``base``) and its order of classes, which the others are brought into by name.

    Raises:
        DataError: the classes of two of them differ.
        WeightsError, ConfigError: as `load_classifier`.
    """
    first = load_classifier(paths[0], device, base=base, overrides=overrides)
    others = []
    for path in paths[1:]:
        member = join_classes(read_stored(path), path, paths[0], first.classes, CLASS_LAYERS)
        others.append(_classifier(member, path, device, overrides))
    return replace(first, others=tuple(others))


def read_stored(path: Path) -> StoredClassifier:
    """A classifier's checkpoint; a moving average is taken before the raw weights."""
    state = load_checkpoint(path)
    expect_task(state, "classification", path)
    config = check_dict(ClassifierConfig, state["config"], str(path))
    return StoredClassifier(state.get("average") or state["model"], config, tuple(state["classes"]))


def _classifier(
    stored: StoredClassifier, path: Path, device: str | torch.device, overrides: Sequence[str]
) -> LoadedClassifier:
    config = override(stored.config, overrides)
    model = build_classifier(config, len(stored.classes))
    load_into(model, stored.tensors, source=str(path))
    return LoadedClassifier(model.to(device).eval(), config, stored.classes)


def _expect_same_network(base: NetworkConfig, stored: NetworkConfig, path: Path) -> None:
    """What shapes cannot tell apart must not differ either: stride, pixels, shortcuts A or none."""
    for name in ("family", "depth", "width", "shortcut", "norm", "stride_in", "pixels"):
        wanted, given = getattr(stored, name), getattr(base, name)
        if wanted != given:
            raise ConfigError(
                f"{path} was trained with network.{name}={wanted}, the config says {given}"
            )


def fill_from_classifier(
    classifier: LoadedClassifier, path: Path, *, reset_head: bool
) -> list[str]:
    """Put a trained classifier's weights into ``classifier``; what was done, in words.

    The classes are compared by name: another order is mapped, other names are an error unless
    ``reset_head`` lets the last layer start anew.

    Raises:
        DataError: other classes, naming both lists and the difference.
        ConfigError: the checkpoint is of another network.
        WeightsError: unreadable, a detector's, or not fitting.
    """
    stored = read_stored(path)
    _expect_same_network(classifier.config.network, stored.config.network, path)
    fitted = fit_classes(stored, path, classifier.classes, CLASS_LAYERS, reset_head=reset_head)
    load_into(classifier.model, fitted.tensors, allow_missing=fitted.missing, source=str(path))
    return [f"weights: {path}", *fitted.notes]


def fill_network(classifier: LoadedClassifier) -> list[str]:
    """Put ``network.weights``, of any known layout, into all but the last layer; what was done, in
    words.

    Raises:
        WeightsError: unreadable, a detector's, or not fitting.
        ConfigError: trained under other pixels or strides than the config says.
    """
    network = classifier.config.network
    if network.weights is None:
        return [f"weights: random, seed {classifier.config.train.seed}"]
    path = resolve(network.weights)
    converted = import_weights(path)
    if converted.kind != "classifier":
        raise WeightsError(f"{path}: holds a {converted.kind}, not a classifier")
    check_binding(converted, pixels=network.pixels, stride_in=network.stride_in, section="network")
    tensors = {
        f"network.{name}": tensor
        for name, tensor in converted.tensors.items()
        if not name.startswith("fc.")
    }
    load_into(classifier.model, tensors, allow_missing=("pixels.", _FC), source=str(path))
    done = f"weights: {path} ({converted.layout}, {len(tensors)} tensors); fc starts anew"
    return [done, *converted.notes]
