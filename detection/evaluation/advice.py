"""What to do next about a detector, by the errors of its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .error_counts import own_scores
from .error_page import STYLES
from .error_types import FOREGROUND, KINDS, error_types
from .image_records import ImageRecords
from .voc import paired_iou

#: Of how many wrong classes, and of which share of them, doubles are worth a word.
_LEAST_DOUBLES, _SHARE_OF_DOUBLES = 3, 0.1

#: What to look at where an error type costs most.
ADVICE: Mapping[str, str] = {
    "missed": "choose the error below and see which objects are missed: small ones need larger "
    "images (image.short_side_train) or smaller anchors (rpn.anchor_sizes), rare ones more images",
    "background": "choose the error below and see whether objects there are not annotated; images "
    "without objects in training teach what is none",
    "classification": "see in the confusion matrix which classes are confused, whether their "
    "objects are named alike in all annotations, and whether they differ at the size that the "
    "network sees",
    "localization": "see whether the boxes are drawn alike in all annotations; longer training "
    "makes boxes more exact",
    "both": "choose the error below and see which classes are concerned; more images of them help",
    "duplicate": "a smaller test.nms_iou joins overlapping detections",
}


def costliest(
    dap: Mapping[str, float | None], confused: Sequence[str] = (), score: float = 0.0
) -> str:
    """What costs most AP and what to do about it; "" where nothing costs any. ``confused`` are the
    most frequent confusions in words, of detections from ``score`` on."""
    costs = {name: cost for name, cost in dap.items() if cost and name in ADVICE}
    if not costs:
        return ""
    name = max(costs, key=lambda each: costs[each] or 0.0)
    rise = f"without it AP would be {costs[name]:.3f} higher"
    if name == "classification" and confused:
        rise += f"; most often, from score {score:g} on, {', '.join(confused)}"
    return f"the error that costs most AP: {STYLES[name][0]}; {rise}. To do: {ADVICE[name]}"


def doubled(records: ImageRecords) -> str:
    """What removes the wrong classes at the place of a right detection; "" where they are few or
    as many are surer than the right one, and in a file without the scores of errors."""
    own = own_scores(records)
    if own is None:
        return ""
    errors = error_types(records.columns())
    found = errors.columns.found
    kept = errors.kept(np.array([np.inf if score is None else score for score in own]))
    wrong = np.flatnonzero(kept & (errors.kinds == [*KINDS].index("classification")))
    right = errors.found_by[errors.targets[wrong]]
    second, first = wrong[right >= 0], right[right >= 0]
    both = kept[first] & (paired_iou(found.boxes[second], found.boxes[first]) >= FOREGROUND)
    second, first = second[both], first[both]
    surer = int((found.scores[second] > found.scores[first]).sum())
    fewer = len(second) - surer
    if fewer < max(_LEAST_DOUBLES, _SHARE_OF_DOUBLES * len(wrong)) or fewer <= surer:
        return ""
    cost = f"; of {surer} others it would leave the wrong one, which is surer" if surer else ""
    return (
        f"{fewer} of {len(wrong)} wrong classes are second boxes of objects that are also found "
        "right, with a higher score. To do: one box for each place, infer --agnostic-nms, in eval "
        f"test.suppress.class_agnostic=true{cost}"
    )
