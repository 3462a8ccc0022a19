"""Which file carries a trained classifier to a detector: frozen, with its pixels bound to it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...detection.errors import WeightsError
from .convert import Converted, StrideIn, convert
from .load import expect_projections


def frozen_classifier(
    tensors: Mapping[str, Tensor],
    *,
    stride_in: StrideIn,
    classes: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    source: str = "weights",
) -> Converted:
    """A classifier's state dict, its ``pixels.*`` included, as `archive.write_converted` takes it.

    Norms keep their names and numbers; the counters of batch norm, which moving averages need, are
    left out. ``stride_in`` is what the network was trained with; ``source`` names it in errors.

    Raises:
        WeightsError: not a network that a detector can begin with, or its norms have no statistics.
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
    expect_projections(converted.tensors, source=source)
    if "stem.conv1.norm.running_var" not in converted.tensors:
        raise WeightsError(f"{source}: norms without statistics (group norm) cannot be frozen")
    return replace(converted, classes=classes, notes=(*converted.notes, *notes))
