"""Loading of weights files into networks, and the files of converted weights.

`import_weights` accounts for every tensor of the file, `load_into` for every one of the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import safetensors
import safetensors.torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from ...detection.errors import ConfigError, WeightsError, first_few, quoted
from ...detection.files import expect_regular, write_file
from ..base import Backbone
from ..pixels import PIXELS
from ..resnet import DEPTHS
from .convert import Converted, StrideIn, convert, expect_trunk
from .fetch import published_sizes
from .layouts import HEADS, LAYOUTS, recognise
from .reading import read_tensors, reason


def import_weights(
    path: Path,
    *,
    layout: str = "auto",
    ratios: int = 3,
    pixels: str | None = None,
    stride_in: StrideIn | None = None,
) -> Converted:
    """Read a weights file of any known layout, or one that `write_converted` wrote.

    ``layout`` replaces the recognised one; the other options are those of `convert`.

    Raises:
        WeightsError: unreadable, of an unknown layout, or with unaccounted tensors.
    """
    if is_archive(path):
        if layout != "auto" or pixels or stride_in:
            raise WeightsError(f"{path}: already converted; convert its original another way")
        return read_converted(path)
    tensors = read_tensors(path)
    try:
        chosen = recognise(tensors) if layout == "auto" else layout
        converted = convert(tensors, chosen, ratios=ratios, pixels=pixels, stride_in=stride_in)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return replace(converted, sizes=published_sizes(path) if chosen == "torchvision" else None)


def check_binding(
    converted: Converted, *, pixels: str, stride_in: str, section: str = "backbone"
) -> None:
    """Expect the pixels and stride position that the weights were trained with.

    ``section`` is the part of the config that describes the network.

    Raises:
        ConfigError: names both values and the setting that fixes it.
    """
    wanted = {"pixels": converted.pixels, "stride_in": converted.stride_in}
    given = {"pixels": pixels, "stride_in": stride_in}
    wrong = [key for key, value in wanted.items() if value is not None and value != given[key]]
    if wrong:
        clashes = ", ".join(f"{section}.{key} is {given[key]}, not {wanted[key]}" for key in wrong)
        fix = " ".join(f"{section}.{key}={wanted[key]}" for key in wrong)
        raise ConfigError(f"{converted.layout} weights under another config: {clashes}; set {fix}")


def check_network(
    converted: Converted, *, depth: int, width: int, section: str = "backbone", source: str
) -> None:
    """Expect a network of the depth and width of the weights in ``source``, where these are known.

    Raises:
        ConfigError: names both values and the setting that fixes it.
    """
    wanted = {"depth": converted.depth, "width": converted.width}
    if converted.depth is None or converted.stem_width != converted.width:
        return  # another kind of network, whose tensors are named where they do not fit
    given = {"depth": depth, "width": width}
    wrong = [key for key, value in wanted.items() if value != given[key]]
    if wrong:
        clashes = ", ".join(f"{section}.{key} is {given[key]}, not {wanted[key]}" for key in wrong)
        fix = " ".join(f"{section}.{key}={wanted[key]}" for key in wrong)
        raise ConfigError(f"{source}: weights of another network: {clashes}; set {fix}")


def split_backbone(
    tensors: Mapping[str, Tensor], backbone: Backbone, *, source: str = "weights"
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename a classifier's tensors to a detector's; returns them and a note on unused ones.

    The last stage, conv5_x, becomes the region head, all others the trunk (paper, appendix A).
    ``source`` names the weights in the error.

    Raises:
        WeightsError: a name that no classifier has, or other shortcuts than a detector's.
    """
    expect_trunk(tensors, source=source)
    ours: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in tensors.items():
        stage, _, rest = name.partition(".")
        if stage == "fc":
            left_out.append(name)
        elif stage not in backbone.strides:
            raise WeightsError(f"{source}: {name} is no tensor of a classifier")
        else:
            in_tail = stage == backbone.tail_stage
            ours[f"roi_head.res5.{rest}" if in_tail else f"trunk.{name}"] = tensor
    note = f"{', '.join(left_out)}: the classifier's own layer, which a detector replaces"
    return ours, (note,) if left_out else ()


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    allow_missing: Sequence[str] = (),
    source: str = "weights",
) -> None:
    """Load every parameter and buffer of ``module`` and use every tensor, or change nothing.

    Raises:
        WeightsError: as `expect_fit`.
    """
    expect_fit(module, tensors, allow_missing=allow_missing, source=source)
    state = module.state_dict()
    common = {name: tensor for name, tensor in tensors.items() if name in state}
    module.load_state_dict(state | common, strict=True)


def expect_fit(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    allow_missing: Sequence[str] = (),
    source: str = "weights",
) -> None:
    """Expect every parameter and buffer of ``module``, which may be on the meta device, and no
    other tensors.

    ``allow_missing`` are names, or prefixes ending in a dot, that may keep their values. The batch
    counters of BN are optional, as only averages without momentum read them. ``source`` names the
    weights in the error.

    Raises:
        WeightsError: tensors missing, unexpected or of another shape or kind, by name; an order of
            channels that is none.
    """
    state = module.state_dict()
    prefixes = tuple(entry for entry in allow_missing if entry.endswith("."))
    missing = [
        name
        for name in state
        if name not in tensors
        and not _is_counter(name)
        and not (name in allow_missing or name.startswith(prefixes))
    ]
    unexpected = [name for name in tensors if name not in state and not _is_counter(name)]
    common = [name for name in tensors if name in state]
    unlike = [
        f"{name} {_describe(tensors[name])} for {_describe(state[name])}"
        for name in common
        if tensors[name].shape != state[name].shape
        or tensors[name].is_floating_point() != state[name].is_floating_point()
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": unlike}
    found = [f"{len(names)} {what} ({first_few(names)})" for what, names in faults.items() if names]
    if found:
        raise WeightsError(f"{source} do not fit {type(module).__name__}: {', '.join(found)}")
    for name in common:
        if name.endswith("pixels.channels") and sorted(tensors[name].tolist()) != [0, 1, 2]:
            raise WeightsError(f"{source}: {name} is no order of three channels")


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"


#: Increased when a header changes its meaning.
VERSION = "1"
#: The fields of `Converted` that a header holds as JSON, each with what it may be.
_HEADER = {
    name: TypeAdapter(kind, config=ConfigDict(strict=True, title=name))
    for name, kind in get_type_hints(Converted).items()
    if name != "tensors"
}


#: Fields that the first files of this version do not have.
_LATER = {"sizes"}


def write_converted(converted: Converted, path: Path) -> None:
    """Write a safetensors file atomically.

    The header holds each field of `Converted` as JSON.

    Raises:
        WeightsError: the file cannot be written.
    """
    header = {name: json.dumps(getattr(converted, name)) for name in _HEADER}
    tensors = {name: tensor.contiguous() for name, tensor in converted.tensors.items()}
    data = safetensors.torch.save(tensors, {"resdet": VERSION, **header})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror}") from error
    write_file(path, data, sync=True, error=WeightsError)


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a safetensors file with our header."""
    return path.suffix == ".safetensors" and "resdet" in header_of(path)


def read_converted(path: Path) -> Converted:
    """Read what `write_converted` wrote.

    Raises:
        WeightsError: damaged, not ours, or of another version.
    """
    header = header_of(path)
    if header.get("resdet") != VERSION:
        raise WeightsError(f"{path}: not a converted weights file of version {VERSION}")
    try:
        values = {
            name: kind.validate_json(header[name])
            for name, kind in _HEADER.items()
            if name in header or name not in _LATER
        }
    except (KeyError, ValueError) as error:  # pydantic's errors have many lines
        raise WeightsError(f"{path}: damaged header: {_first_fault(error)}") from error
    converted = Converted(tensors=read_tensors(path), **values)
    heads = [f"{head}.{part}" for head in HEADS for part in ("weight", "bias")]
    if converted.kind == "detector" and (missing := set(heads) - converted.tensors.keys()):
        raise WeightsError(f"{path}: a detector without {first_few(sorted(missing))}")
    for name in (*heads, "fc.weight"):
        if name in converted.tensors and not converted.tensors[name].dim():
            raise WeightsError(f"{path}: its {name} is a single number")
    for name, known in (("layout", LAYOUTS), ("pixels", PIXELS), ("depth", (None, *DEPTHS))):
        if values[name] not in known:
            raise WeightsError(f"{path}: damaged header: its {name} is {quoted(values[name])}")
    named = len(set(converted.classes))
    if named != len(converted.classes) or named not in (0, converted.class_count):
        raise WeightsError(
            f"{path}: damaged header: {len(converted.classes)} names, {named} of them different, "
            f"for {converted.class_count} classes"
        )
    return converted


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_input=False, include_url=False)[0]
        return f"{error.title}: {fault['msg']}"[:200]
    return f"without {error}"[:200]


def header_of(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; raises WeightsError."""
    try:
        expect_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read weights: {reason(error)}") from error
