"""Per-class linear layers, evaluated only for the requested classes.

The two sibling layers of the localizer (ResNet paper, appendix C): for each class and anchor a
binary logistic output and a box regression. With 1000 classes and 9 anchors those are 45,000
numbers at each position, of which training needs a few and testing those of five classes: rows of
the weights are selected first, and only their outputs are computed.

S samples · L requested labels · P positions · A anchors · K classes · C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PerClassLinear(nn.Module):
    """A linear layer with (O,) outputs for each class: ``weight`` (K, O, C), ``bias`` (K, O).

    Classes come first, so that their rows can be reordered or selected as in any class layer.
    """

    def __init__(self, channels: int, classes: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, outputs, channels).normal_(std=0.01))
        self.bias = nn.Parameter(torch.zeros(classes, outputs))

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        """All outputs of each label at each of the (P, C) rows: (L, P, O)."""
        weight, bias = self.weight[labels], self.bias[labels]
        outputs = nn.functional.linear(rows, weight.flatten(0, 1), bias.flatten())
        return outputs.unflatten(1, bias.shape).transpose(0, 1)

    def picked(self, rows: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
        """Output ``outputs[s]`` of class ``labels[s]`` at ``rows[s]``, for (S, C) rows.

        ``outputs`` (S,) or (S, O') are indices into O; the result has their shape.
        """
        if outputs.dim() == 2:
            labels = labels[:, None]
        weight, bias = self.weight[labels, outputs], self.bias[labels, outputs]
        return torch.einsum("sc,s...c->s...", rows, weight.to(rows.dtype)) + bias

    def all_classes(self, rows: Tensor, outputs: Tensor) -> Tensor:
        """Output ``outputs[s]`` of every class at ``rows[s]``: (S, K)."""
        if len(rows) == 0:  # depends on the weights: every process needs a gradient
            return self.picked(rows, outputs, outputs)[:, None] + self.bias[:, 0]
        answers = rows.new_zeros(len(rows), len(self.weight))
        for output in outputs.unique():  # one product for each anchor avoids (S, K, C) weights
            mine = outputs == output
            answers[mine] = nn.functional.linear(
                rows[mine], self.weight[:, output], self.bias[:, output]
            ).to(answers.dtype)
        return answers


class ClassHead(nn.Module):
    """Logits and box deltas of the requested classes.

    With ``shared`` all anchors of a position share one set of outputs.
    """

    def __init__(self, channels: int, classes: int, anchors: int, *, shared: bool = False) -> None:
        super().__init__()
        sets = 1 if shared else anchors
        self.anchors, self.shared = anchors, shared
        self.cls_logits = PerClassLinear(channels, classes, sets)
        self.box_deltas = PerClassLinear(channels, classes, 4 * sets)

    def forward(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(P, C) features to logits (L, P * A) and deltas (L, P * A, 4), anchors innermost."""
        logits = self.cls_logits(rows, labels)
        deltas = self.box_deltas(rows, labels)
        deltas = deltas.unflatten(2, (deltas.shape[2] // 4, 4))
        if self.shared:
            logits = logits.expand(-1, -1, self.anchors)
            deltas = deltas.expand(-1, -1, self.anchors, -1)
        return logits.flatten(1).float(), deltas.flatten(1, 2).float()

    def logits_at(self, rows: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """(S,): the logit of each sample's own class and anchor."""
        return self.cls_logits.picked(rows, labels, self._sets(anchors)).float()

    def all_logits_at(self, rows: Tensor, anchors: Tensor) -> Tensor:
        """(S, K): the logits of every class at each sample's anchor."""
        return self.cls_logits.all_classes(rows, self._sets(anchors)).float()

    def deltas_at(self, rows: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """(S, 4): the deltas of each sample's own class and anchor."""
        first = 4 * self._sets(anchors)
        outputs = first[:, None] + torch.arange(4, device=rows.device)
        return self.box_deltas.picked(rows, labels, outputs).float()

    def _sets(self, anchors: Tensor) -> Tensor:
        return torch.zeros_like(anchors) if self.shared else anchors
