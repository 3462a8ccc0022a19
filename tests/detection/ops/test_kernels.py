"""torchvision's operators, with and without its Python packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

SUPPRESS = """
import sys, torch
{before}
from resdet.detection.ops.nms import greedy_nms
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
kept = greedy_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), iou=0.5)
assert kept.tolist() == [1, 2], kept
{after}
"""
NO_LIBRARY = """
from resdet.detection.ops import kernels
kernels.find_spec = lambda name: None
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "assert 'torchvision' not in sys.modules"),
        ("", "import torchvision.ops; torchvision.ops.nms(boxes, boxes[:, 0], 0.5)"),
        ("import torchvision", ""),
        (NO_LIBRARY, "assert 'torchvision' in sys.modules"),
    ],
    ids=["alone", "then_imported", "imported_before", "no_library_file"],
)
def test_a_new_process(before: str, after: str) -> None:
    code = SUPPRESS.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
