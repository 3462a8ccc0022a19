"""Conversion of weights files to our tensor names, which accounts for every tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from torch import Tensor

from ...detection.errors import WeightsError, first_few
from ..pixels import PIXELS, name_pixels, pixel_buffers
from ..resnet import DEPTHS, BasicBlock, Bottleneck, ResNet
from ..undrawn import shapes_only
from .layouts import HEADS, LAYOUTS, Kind, Layout, Settings, rename, why_ignored
from .rewrites import complete_norms, convert_heads

T = TypeVar("T")
StrideIn = Literal["3x3", "1x1"]

#: {entry of PIXELS: stride position of its models} (facebookresearch/detectron2 #778).
STRIDE_IN: dict[str, StrideIn] = {"torchvision": "3x3", "msra": "1x1", "caffe": "1x1"}

#: (name in the file, our name or the reason for leaving it out).
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Converted:
    """A network's weights under our names, with the conventions that they were trained with.

    A detector's ``tensors`` include its ``pixels.*``; a classifier's do not, as it may become a
    trunk. ``stride_in`` is None for our own state dicts, whose config has it, and for basic blocks.
    ``anchors`` is None for classifiers. ``mapped`` pairs each name in the file with ours,
    ``unused`` with the reason for leaving it out.
    """

    tensors: dict[str, Tensor]
    kind: Kind
    layout: str
    #: None for networks of ours that are not in the paper's Table 1.
    depth: int | None
    #: Channels of the first convolution of res2 and of the stem: 64 except in narrow nets; 0 if
    #: a network of ours has no such layers.
    width: int
    stem_width: int
    pixels: str
    stride_in: StrideIn | None
    max_pool: Literal["pad1", "ceil"]
    anchors: Literal["float", "rounded"] | None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mapped: Pairs = ()
    unused: Pairs = ()
    #: ``test.resize`` and ``test.size`` of a published classifier, where not the layout's.
    sizes: tuple[int, int] | None = None

    @property
    def testing(self) -> Settings:
        """The settings of testing that belong to the weights."""
        own = zip(("test.resize", "test.size"), self.sizes or (), strict=False)
        return tuple({**dict(LAYOUTS[self.layout].testing), **dict(own)}.items())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names; ``class0`` and so on where the file has none."""
        return self.classes or numbered(self.class_count)

    @property
    def network(self) -> str:
        return f"ResNet-{self.depth}" if self.depth else "custom"

    @property
    def bottlenecks(self) -> bool:
        """Whether ``stride_in`` makes a difference."""
        return has_bottlenecks(self.depth)

    @property
    def class_count(self) -> int:
        """Classes without the background; 0 for a classifier without its last layer."""
        if self.kind == "detector":
            return len(self.tensors["roi_head.cls_logits.weight"]) - 1
        return len(self.tensors["fc.weight"]) if "fc.weight" in self.tensors else 0


def are_numbered(classes: Sequence[str]) -> bool:
    """Whether these are the names that `Converted.class_names` gives where a file has none."""
    return bool(classes) and tuple(classes) == numbered(len(classes))


def numbered(count: int) -> tuple[str, ...]:
    """``class0`` to the last of ``count`` classes."""
    return tuple(f"class{index}" for index in range(count))


def has_bottlenecks(depth: int | None) -> bool:
    return depth is not None and DEPTHS[depth][0] is Bottleneck


def convert(
    tensors: Mapping[str, Tensor],
    layout: str,
    *,
    ratios: int = 3,
    pixels: str | None = None,
    stride_in: StrideIn | None = None,
) -> Converted:
    """Rename and reorder the tensors of a layout; floating-point numbers become float32.

    ``ratios`` is the number of anchor aspect ratios, for layouts that count anchors ratio by ratio.
    ``pixels`` and ``stride_in`` replace the layout's, for weights trained with others.

    Raises:
        WeightsError: an unknown layout; a tensor unaccounted for, missing or not finite; a depth
            that is none of the paper's.
    """
    rules = _entry(LAYOUTS, layout, "layout")
    mapped, unused = account(tensors, rules)
    ours = {target: _checked(tensors[name], name) for name, target in mapped}
    notes = [*rules.notes, *complete_norms(ours)]
    if rules.kind == "detector":
        notes += convert_heads(ours, rules, ratios)
    depth = _depth(ours)
    if not rules.own:  # our own networks may differ; load_into checks them
        _expect_whole(ours, depth, rules.kind)
    pixels = pixels or _pixels_of(tensors, rules)
    buffers = pixel_buffers(_entry(PIXELS, pixels, "pixels"))
    if rules.kind == "detector":
        ours |= {f"pixels.{name}": value for name, value in buffers.items()}
    usual_stride = None if rules.own else STRIDE_IN[pixels]
    return Converted(
        tensors=ours,
        kind=rules.kind,
        layout=layout,
        depth=depth,
        width=_channels(ours, "res2.0.conv1.weight"),
        stem_width=_channels(ours, "stem.conv1.weight"),
        pixels=pixels,
        stride_in=stride_in or usual_stride if has_bottlenecks(depth) else None,
        max_pool=rules.max_pool,
        anchors=rules.anchors if rules.kind == "detector" else None,
        notes=tuple(notes),
        mapped=mapped,
        unused=unused,
    )


def frozen_classifier(
    tensors: Mapping[str, Tensor],
    *,
    stride_in: StrideIn,
    classes: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    source: str = "weights",
) -> Converted:
    """A trained classifier's state dict, ``pixels.*`` included, for `write_converted`.

    Norms keep their names and numbers; the counters of batch norm, which moving averages need, are
    left out. ``stride_in`` is what the network was trained with; ``source`` names it in errors.

    Raises:
        WeightsError: not usable as a backbone of a detector, or its norms have no statistics.
    """
    kept = {
        name: tensor.detach().cpu()
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    try:
        converted = convert(kept, "resdet_classifier", stride_in=stride_in)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    expect_trunk(converted.tensors, source=source)
    if not any(name.endswith(".running_var") for name in converted.tensors):
        raise WeightsError(f"{source}: norms without statistics (group norm) cannot be frozen")
    return replace(converted, classes=classes, notes=(*converted.notes, *notes))


def expect_trunk(names: Iterable[str], *, source: str = "weights") -> None:
    """Expect a ResNet classifier with conv5_x and shortcuts B, as detectors have.

    With B, only the first block of conv5_x, where the shape changes, has a projection.

    Raises:
        WeightsError: names what the network has.
    """
    found = set(names)
    other = None
    if "res5.0.conv1.weight" not in found:
        if "res4.0.conv1.weight" in found:
            other = "a net without conv5_x, such as those for small images (CIFAR)"
    elif "res5.0.shortcut.weight" not in found:
        other = "a plain net or one with shortcuts A (no projections)"
    elif "res5.1.shortcut.weight" in found:
        other = "a net with shortcuts C (a projection in every block)"
    if other:
        raise WeightsError(f"{source}: {other}; a detector's ResNet has conv5_x and shortcuts B")


def account(names: Iterable[str], rules: Layout) -> tuple[Pairs, Pairs]:
    """Every name of a file in one of two lists: ``(mapped, unused)`` of `Converted`.

    Raises:
        WeightsError: names that the layout neither maps nor ignores, or two for one target.
    """
    mapped, unused, unknown = [], [], []
    for name in names:
        target, reason = rename(name, rules), why_ignored(name, rules)
        if target is not None:
            mapped.append((name, target))
        elif reason is not None:
            unused.append((name, reason))
        else:
            unknown.append(name)
    if unknown:
        raise WeightsError(f"{len(unknown)} tensors no {rules.title} has: {first_few(unknown)}")
    counts = Counter(target for _, target in mapped)
    twice = [target for target, count in counts.items() if count > 1]
    if twice:
        raise WeightsError(f"more than one tensor for {first_few(twice)}")
    return tuple(mapped), tuple(unused)


def _entry(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise WeightsError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]


def _checked(tensor: Tensor, name: str) -> Tensor:
    if name.endswith(".num_batches_tracked"):  # of our own nets; other layouts ignore them
        return tensor
    if not tensor.is_floating_point() or tensor.dim() == 0:
        raise WeightsError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not weights")
    if not tensor.isfinite().all():
        raise WeightsError(f"{name} holds values that are not finite")
    return tensor.float()


def _channels(ours: Mapping[str, Tensor], layer: str) -> int:
    """Rows of a layer, with or without ``trunk.`` in front; 0 where there is none."""
    return max((len(ours[name]) for name in (layer, f"trunk.{layer}") if name in ours), default=0)


_BLOCK = re.compile(r"(?:trunk\.|roi_head\.)?res([2-5])\.(\d+)\.(conv[123])\.weight")


def _depth(ours: Iterable[str]) -> int | None:
    """The ResNet with these blocks, by their number in each stage and their convolutions."""
    counts, basic = _blocks(ours)
    for depth, (block, expected) in DEPTHS.items():
        if counts == expected and basic == (block is BasicBlock):
            return depth
    return None


def _blocks(ours: Iterable[str]) -> tuple[tuple[int, ...], bool]:
    """Numbers of blocks in res2 to res5, and whether they are basic ones."""
    found = [match.groups() for match in map(_BLOCK.fullmatch, ours) if match]
    counts = tuple(len({block for at, block, _ in found if at == stage}) for stage in "2345")
    return counts, all(conv != "conv3" for *_, conv in found)


def _expect_whole(ours: Mapping[str, Tensor], depth: int | None, kind: Kind) -> None:
    """Classifiers may lack ``fc``: self-supervised backbones are published without."""
    if depth is None:
        counts, basic = _blocks(ours)
        blocks = "basic" if basic else "bottleneck"
        raise WeightsError(f"no ResNet has {counts} {blocks} blocks in res2 to res5")
    missing = [name for name in _names(depth, kind) if name not in ours]
    if missing:
        raise WeightsError(f"{len(missing)} tensors are missing: {first_few(missing)}")


def _names(depth: int, kind: Kind) -> list[str]:
    with shapes_only():
        names = list(ResNet(depth, width=1).trunk(whole=True).state_dict())
    if kind == "classifier":
        return names
    parts = [f"roi_head.{name}" if name.startswith("res5.") else f"trunk.{name}" for name in names]
    return parts + [f"{head}.{part}" for head in HEADS for part in ("weight", "bias")]


def _pixels_of(tensors: Mapping[str, Tensor], rules: Layout) -> str:
    """The entry of PIXELS with the file's mean and std, or the layout's if it has none."""
    for mean, std in (("pixels.mean", "pixels.std"), ("pixel_mean", "pixel_std")):
        if mean in tensors and std in tensors:
            named = name_pixels(tensors[mean], tensors[std])
            if named is None:
                raise WeightsError(
                    f"{mean} {tensors[mean].flatten().tolist()} is of no known pixels"
                )
            return named
    if rules.pixels is None:
        raise WeightsError("the file does not say which pixels it needs")
    return rules.pixels
