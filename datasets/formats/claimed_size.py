"""Is an image as large as its annotation says, and if not, is it rotation?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...detection.errors import ImageError
from ..findings import Fault
from ..image import ImageRules, read_size


def checked_size(
    image: Path,
    claimed: tuple[float, float] | None,
    source: Path,
    rules: ImageRules,
    *,
    object: str = "",
) -> tuple[int, int]:
    """(h, w) from the image's header, as displayed.

    ``claimed`` (h, w) is what ``source`` says about ``object``; None if it says nothing. Raises
    `Fault` of kind ``unreadable_image``, ``size_matches_unrotated`` or ``size_mismatch``.
    """
    actual = _header_size(image, rules)
    if claimed is None or list(claimed) == list(actual):
        return actual
    said = f"says {claimed[1]:g}x{claimed[0]:g}, {image.name} is {actual[1]}x{actual[0]}"
    other: Literal["apply", "ignore"] = "ignore" if rules.exif == "apply" else "apply"
    if list(claimed) == list(_header_size(image, replace(rules, exif=other))):
        moment = "before" if other == "ignore" else "after"
        reason = f"{said}: boxes were drawn {moment} EXIF rotation, set `exif: {other}`"
        raise Fault.of("size_matches_unrotated", source, reason, object=object, image=image)
    raise Fault.of("size_mismatch", source, said, object=object, image=image)


def _header_size(image: Path, rules: ImageRules) -> tuple[int, int]:
    try:
        return read_size(image, rules)
    except ImageError as error:
        reason = str(error).removeprefix(f"{image}: ")
        raise Fault.of("unreadable_image", image, reason, image=image) from error
