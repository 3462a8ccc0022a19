"""Groups of images that must stay on one side of a split: copies, and near copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..checks.duplicates import similar_pairs
from ..checks.images import check_images
from ..image import ImageRules
from .split import joined, same_bytes


def groups_of_copies(
    paths: Sequence[Path],
    rules: ImageRules,
    *,
    near: bool,
    workers: int,
    progress: Callable[[int, int], None],
) -> list[str]:
    """A key for each image, equal for those that must stay together; ``near`` copies, such as
    frames of a scene, are looked for by decoding all images in ``workers`` processes.

    ``progress`` is called with (done, total). Raises DataError for a file that cannot be read.
    """
    keys = same_bytes(paths)
    if not near:
        return keys
    facts = check_images(paths, rules, workers=workers, cache=None, progress=progress)
    key_of = dict(zip(paths, keys, strict=True))
    pairs = [(key_of[late], key_of[early]) for late, early in similar_pairs(facts)]
    return joined(keys, pairs)
