"""The rows of class layers, carried from one list of classes to another by name.

K classes of the new network. A layer has a block of rows for each class, in label order, and any
rows beyond those are the background's (`Task.class_layers`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, first_few

Tensors = Mapping[str, Tensor]

#: How far the logit of a new class starts below the background's: e^-20 is 2e-9, less than the
#: precision of float32, so that the scores of all other classes stay as they are.
BELOW_BACKGROUND = 20.0


def match_classes(
    wanted: Sequence[str], known: Sequence[str], names: Mapping[str, str]
) -> tuple[list[int | None], list[str]]:
    """For each class the label of the class in ``known`` whose rows it takes, None for a new one;
    and lines for the log. ``names`` maps classes that have another name there.

    Raises ConfigError for a name in ``names`` that is in neither list.
    """
    for here, there in names.items():
        for name, owner, among in ((here, "the data", wanted), (there, "the weights", known)):
            if name not in among:
                close = difflib.get_close_matches(name, among, n=1)
                near = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"train.start_classes: {here}: {there}: {owner} have no class {name!r}{near}"
                )
    sources = [names.get(name, name) for name in wanted]
    origins = [known.index(source) if source in known else None for source in sources]
    unused = [name for name in known if name not in sources]
    lines = [
        f"class {name!r} takes the rows of {source!r} (train.start_classes)"
        for name, source in zip(wanted, sources, strict=True)
        if name in names
    ]
    for name, origin in zip(wanted, origins, strict=True):
        if origin is None:
            close = difflib.get_close_matches(name, unused, n=1)
            near = (
                f"; to take those of {close[0]!r}, map it in train.start_classes" if close else ""
            )
            lines.append(f"class {name!r} is new: its rows are initialised{near}")
    if unused:
        lines.append(f"classes of the weights left out: {len(unused)} ({first_few(unused)})")
    return origins, lines


def carry_rows(
    tensors: Tensors,
    layers: Mapping[str, int],
    known: int,
    origins: Sequence[int | None],
    fresh: Tensors,
) -> Tensors:
    """``tensors`` of ``known`` classes with the rows of ``origins`` (K,); the background stays
    last, and a layer that all classes share is as it is.

    A new class is a copy of the background with a logit `BELOW_BACKGROUND` lower; in a layer
    without background it has the rows of ``fresh``, the tensors of a new network of K classes.
    """
    moved = dict(tensors)
    for name, tensor in tensors.items():
        rows = next((rows for prefix, rows in layers.items() if name.startswith(prefix)), 0)
        new = fresh.get(name)
        if rows == 0 or new is None or tensor.dim() == 0:
            continue
        if rows * known <= len(tensor) and rows * len(origins) <= len(new):
            moved[name] = _carried(tensor, rows, known, origins, new)
    return moved


def _carried(
    tensor: Tensor, rows: int, known: int, origins: Sequence[int | None], fresh: Tensor
) -> Tensor:
    """``tensor`` (rows x known + background, ...) for the K classes of ``origins``."""
    blocks, background = tensor[: rows * known].unflatten(0, (-1, rows)), tensor[rows * known :]
    new = fresh[: rows * len(origins)].unflatten(0, (-1, rows)).to(tensor)
    if rows == len(background) == 1:  # the scores of classes and of the background
        lower = BELOW_BACKGROUND if tensor.dim() == 1 else 0.0  # in the bias
        new = (background[None] - lower).expand_as(new)
    chosen = [new[k] if origin is None else blocks[origin] for k, origin in enumerate(origins)]
    return torch.cat([*chosen, background])
