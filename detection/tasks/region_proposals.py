"""Proposals of the first stage for the second: made image by image, kept in the run folder so that
a resumed run has the same.

P proposals of one image, for its own class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import DataError
from ..files import atomic_write
from ..structures import Record

FILE = "proposals.safetensors"


def write_proposals(proposals: Mapping[str, Tensor], path: Path) -> None:
    """(P, 4) float32 boxes in original pixels by image id; written whole or not at all."""
    with atomic_write(path) as part:
        save_file({name: boxes.contiguous() for name, boxes in proposals.items()}, part)


def read_proposals(path: Path, records: Iterable[Record]) -> dict[str, Tensor]:
    """Those of the ``records``; raises DataError, naming the file, where one has none."""
    try:
        proposals = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete it to make it anew") from error
    missing = [record.image_id for record in records if record.image_id not in proposals]
    if missing:
        raise DataError(
            f"{path}: no proposals for {len(missing)} images, the first: {missing[0]}; "
            "delete it to make it anew"
        )
    bad = [name for name, boxes in proposals.items() if not _fits(boxes)]
    if bad:
        raise DataError(f"{path}: {bad[0]} has no (P, 4) float32 boxes; delete it to make it anew")
    return proposals


def _fits(boxes: Tensor) -> bool:
    return boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.dtype == torch.float32
