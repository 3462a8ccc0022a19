"""Localizers from files: what training starts from, or what locates together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from ...backbones.weights.fetch import resolve
from ...backbones.weights.load import check_binding, import_weights, load_into
from ..config.files import check_dict, override, read_config
from ..config.localizer import AnyLocalizerConfig, LocalizerConfig, RegionLocalizerConfig
from ..engine.checkpoint import expect_task, load_checkpoint, read_task
from ..errors import ConfigError, WeightsError
from .class_layers import ClassLayers, Stored, fit_classes, join_classes
from .classifier import LoadedClassifier
from .classifier_weights import load_classifiers
from .localizer import (
    Ensemble,
    Loaded,
    LoadedLocalizer,
    LoadedRegionLocalizer,
    build_localizer,
    build_region_localizer,
)

Config = TypeVar("Config", bound=AnyLocalizerConfig)
AnyLoaded = LoadedLocalizer | LoadedRegionLocalizer

_HEAD = ("head.cls_logits.", "head.box_deltas.")
#: What shapes cannot tell apart must not differ either, by the schema of a stage.
_SHAPING: Mapping[str, tuple[str, ...]] = {
    "network": ("family", "depth", "width", "shortcut", "norm", "stride_in", "pixels"),
    "head": ("level", "anchor_sizes", "anchor_ratios", "outputs"),
    "region": ("size", "padding"),
}


def _reorder(tensors: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    rows = torch.tensor(order)
    return {
        name: tensor[rows] if name.startswith(_HEAD) else tensor for name, tensor in tensors.items()
    }


CLASS_LAYERS = ClassLayers(_HEAD, _reorder, "class layers start anew")


# ------------------------------------------------------------------------------------- to use


def load_ensemble(
    paths: Sequence[Path],
    device: str | torch.device = "cpu",
    *,
    base: AnyLocalizerConfig | None = None,
    overrides: Sequence[str] = (),
) -> Ensemble:
    """Localizers of one stage, ready to be used: the first one leads, with its configuration (or
    ``base``) and its order of classes, which the others are brought into by name.

    Of stage two, the networks of stage one and the classifiers that the leader's configuration
    names are loaded with it.

    Raises:
        WeightsError: unreadable, of another task, or it does not fit its configuration.
        DataError: the classes of two of them differ.
        ConfigError: ``base`` describes another network, or stage two names no stage one.
    """
    task = read_task(paths[0])
    if task == LocalizerConfig().task:
        ones = _load_all(paths, LocalizerConfig, build_localizer, base, overrides, device)
        lead = ones[0]
        return Ensemble(
            lead.config, lead.classes, tuple(ones), classifier=_classifier(lead.config, device)
        )
    twos = _load_all(paths, RegionLocalizerConfig, build_region_localizer, base, overrides, device)
    leader = twos[0]
    named = dict.fromkeys(path for one in twos for path in one.config.proposals.weights)
    if base is not None:  # what is said now holds for all
        named = dict.fromkeys(leader.config.proposals.weights)
    return Ensemble(
        leader.config,
        leader.classes,
        load_proposers(list(named), leader.classes, device),
        tuple(twos),
        _classifier(leader.config, device),
    )


def load_proposers(
    weights: Sequence[str], classes: Sequence[str], device: str | torch.device = "cpu"
) -> tuple[LoadedLocalizer, ...]:
    """Networks of stage one with their classes in the order of ``classes``; raises as
    `load_ensemble`."""
    if not weights:
        raise ConfigError(
            "proposals.weights: stage two looks at proposals of stage one; name its checkpoint, "
            "proposals.weights=[FILE]"
        )
    found = []
    for path in map(Path, weights):
        stored = read_stored(path, LocalizerConfig)
        joined = join_classes(stored, path, Path("the second stage"), classes, CLASS_LAYERS)
        found.append(_loaded(joined, path, build_localizer, device))
    return tuple(found)


def _load_all(
    paths: Sequence[Path],
    schema: type[Config],
    build: Callable[..., torch.nn.Module],
    base: AnyLocalizerConfig | None,
    overrides: Sequence[str],
    device: str | torch.device,
) -> list[Loaded]:
    first = read_stored(paths[0], schema)
    if base is not None:
        _expect_same_network(base, first.config, paths[0])
        first = replace(first, config=cast(Config, base))
    members = [first]
    for path in paths[1:]:
        stored = read_stored(path, schema)
        members.append(join_classes(stored, path, paths[0], first.classes, CLASS_LAYERS))
    return [
        _loaded(replace(one, config=override(one.config, overrides)), path, build, device)
        for one, path in zip(members, paths, strict=True)
    ]


def _loaded(
    stored: Stored, path: Path, build: Callable[..., torch.nn.Module], device: str | torch.device
) -> Loaded:
    model = build(stored.config, len(stored.classes))
    load_into(model, stored.tensors, source=str(path))
    return Loaded(model.to(device).eval(), stored.config, stored.classes)


def _classifier(config: AnyLocalizerConfig, device: str | torch.device) -> LoadedClassifier | None:
    paths = [Path(path) for path in config.test.classifiers]
    return load_classifiers(paths, device) if paths else None


def read_base(path: Path, config: str) -> AnyLocalizerConfig:
    """The config file for the stage that the checkpoint ``path`` is of; raises ConfigError."""
    if read_task(path) == LocalizerConfig().task:
        return read_config(LocalizerConfig, config)
    return read_config(RegionLocalizerConfig, config)


def read_stored(path: Path, schema: type[Config]) -> Stored[Config]:
    """A localizer's checkpoint; a moving average is taken before the raw weights."""
    state = load_checkpoint(path)
    expect_task(state, schema().task, path)
    config = check_dict(schema, state["config"], str(path))
    return Stored(state.get("average") or state["model"], config, tuple(state["classes"]))


def _expect_same_network(base: AnyLocalizerConfig, stored: AnyLocalizerConfig, path: Path) -> None:
    for section, names in _SHAPING.items():
        for name in names if hasattr(stored, section) else ():
            wanted = getattr(getattr(stored, section), name)
            given = getattr(getattr(base, section, None), name, None)
            if wanted != given:
                raise ConfigError(
                    f"{path} was trained with {section}.{name}={wanted}, the config says {given}"
                )


# -------------------------------------------------------------------------------- to start from


def fill_from_localizer(
    localizer: AnyLoaded, path: Path, schema: type[Config], *, reset_head: bool
) -> list[str]:
    """Put the weights of a trained localizer of the same stage into ``localizer``; what was done,
    in words.

    The classes are compared by name: another order is mapped, other names are an error unless
    ``reset_head`` lets the class layers start anew.

    Raises:
        DataError: other classes, naming both lists and the difference.
        ConfigError: the checkpoint is of another network.
        WeightsError: unreadable, of another task, or not fitting.
    """
    stored = read_stored(path, schema)
    _expect_same_network(localizer.config, stored.config, path)
    fitted = fit_classes(stored, path, localizer.classes, CLASS_LAYERS, reset_head=reset_head)
    load_into(localizer.model, fitted.tensors, allow_missing=fitted.missing, source=str(path))
    return [f"weights: {path}", *fitted.notes]


def fill_trunk(localizer: AnyLoaded) -> list[str]:
    """Put ``network.weights``, a classifier of any known layout, into the trunk; what was done, in
    words.

    Raises:
        WeightsError: unreadable, a detector's, or not fitting.
        ConfigError: trained under other pixels or strides than the config says, or no weights for
            frozen norms.
    """
    network = localizer.config.network
    if network.weights is None and network.norm == "frozen":
        raise ConfigError(
            "network.weights: not given, and network.norm=frozen has no statistics without them; "
            "name a classifier (`resdet freeze-bn` writes one), or train with network.norm=batch"
        )
    if network.weights is None:
        return [f"weights: random, seed {localizer.config.train.seed}"]
    path = resolve(network.weights)
    converted = import_weights(path)
    if converted.kind != "classifier":
        raise WeightsError(f"{path}: holds a {converted.kind}, not a classifier")
    check_binding(converted, pixels=network.pixels, stride_in=network.stride_in, section="network")
    deep = hasattr(localizer.model.trunk, "res5")
    replaced = ("fc.",) if deep else ("fc.", "res5.")
    tensors = {
        f"trunk.{name}": tensor
        for name, tensor in converted.tensors.items()
        if not name.startswith(replaced)
    }
    load_into(localizer.model, tensors, allow_missing=("pixels.", *_HEAD), source=str(path))
    left_out = " and ".join(prefix.rstrip(".") for prefix in replaced)
    done = f"weights: {path} ({converted.layout}, {len(tensors)} tensors); {left_out} left out"
    return [done, *converted.notes]
