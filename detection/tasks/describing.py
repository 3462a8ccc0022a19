"""The settings of a test in words, as parts of `Task.describe_testing`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from .loaded import Loaded


def describe_members(views: Sequence[Sequence[str]], stage: str = "") -> list[str]:
    """What each member of an ensemble is given, in words, as parts of `Task.describe_testing`; once
    where all are given the same."""
    together = f"ensemble of {len(views)}{stage}"
    if any(list(other) != list(views[0]) for other in views):
        each = (f"({number}) {', '.join(words)}" for number, words in enumerate(views, 1))
        return [f"{together}: {' '.join(each)}"]
    return [*views[0], *([together] if len(views) > 1 else [])]


def describe_overridden(members: Sequence[Loaded], names: Sequence[str]) -> list[str]:
    """The settings ``names`` (as in ``test.nms_iou``) that differ from those in the files of the
    weights, as a part of `Task.describe_testing`; nothing where all are the files'."""
    changed = []
    for member in members:
        for name in names if member.own else ():
            used, own = (
                reduce(getattr, name.split("."), config) for config in (member.config, member.own)
            )
            changed += [f"{name} {used} (weights: {own})"] if used != own else []
    return [f"overridden: {', '.join(dict.fromkeys(changed))}"] if changed else []
