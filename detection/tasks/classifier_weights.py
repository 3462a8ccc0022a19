"""Classifiers from the weights of other toolkits: as a start of training, and with their
configuration, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...backbones.pixels import PIXELS, pixel_buffers
from ...backbones.weights.convert import Converted
from ...backbones.weights.fetch import resolve
from ...backbones.weights.layouts import LAYOUTS
from ...backbones.weights.load import (
    check_binding,
    check_network,
    import_weights,
    load_into,
)
from ..config.classifier import ClassifierConfig
from ..config.files import override
from ..errors import WeightsError
from .base import Loaded


def converted_classifier(
    converted: Converted, path: Path
) -> tuple[Mapping[str, Tensor], ClassifierConfig, tuple[str, ...]]:
    """Tensors, configuration and classes of a published ImageNet ResNet.

    Raises:
        WeightsError: not a whole classifier, or one of this toolkit's own, whose file has another
            configuration.
    """
    if converted.kind != "classifier":
        raise WeightsError(f"{path}: holds a {converted.kind}, not a classifier")
    if LAYOUTS[converted.layout].own:
        raise WeightsError(
            f"{path}: made from a checkpoint of this toolkit, without the config that came with "
            "it; use the checkpoint itself"
        )
    if not converted.class_count:
        raise WeightsError(f"{path}: a backbone without its last layer, which gives no classes")
    if converted.stem_width != converted.width:
        raise WeightsError(
            f"{path}: conv1 has {converted.stem_width} channels and conv2_x {converted.width}: "
            "no network of `network.width`"
        )
    config = ClassifierConfig()
    network = config.network.model_dump() | {
        "depth": converted.depth,
        "width": converted.width,
        "norm": "frozen",
        "pixels": converted.pixels,
        "stride_in": converted.stride_in or config.network.stride_in,
    }
    config = config.model_validate(config.model_dump() | {"network": network})
    tensors = {f"network.{name}": tensor for name, tensor in converted.tensors.items()}
    buffers = pixel_buffers(PIXELS[converted.pixels])
    tensors |= {f"pixels.{name}": tensor for name, tensor in buffers.items()}
    testing = [f"{name}={value}" for name, value in converted.testing]
    return tensors, override(config, testing), converted.class_names


def load_classifier_weights(
    loaded: Loaded, prefix: str, replaced: tuple[str, ...], missing: tuple[str, ...], done: str
) -> list[str]:
    """Load ``network.weights``, a classifier of any known layout, without its layers ``replaced``;
    ``prefix`` is added to the names of tensors, and ``missing`` layers of the model keep their
    values. Returns lines for the log, the first of which ends with ``done``."""
    settings = loaded.config.network
    path = resolve(settings.weights)
    converted = import_weights(path)
    if converted.kind != "classifier":
        raise WeightsError(f"{path}: holds a {converted.kind}, not a classifier")
    depth, width = settings.depth, settings.width
    check_network(converted, depth=depth, width=width, section="network", source=str(path))
    check_binding(
        converted, pixels=settings.pixels, stride_in=settings.stride_in, section="network"
    )
    tensors = {
        f"{prefix}{name}": tensor
        for name, tensor in converted.tensors.items()
        if not name.startswith(replaced)
    }
    load_into(loaded.model, tensors, allow_missing=missing, source=str(path))
    return [
        f"weights: {path} ({converted.layout}, {len(tensors)} tensors); {done}",
        *converted.notes,
    ]
