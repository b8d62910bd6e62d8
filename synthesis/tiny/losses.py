"""The auxiliary losses of pre-training, whose heads are thrown away after it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from synthesis.scenes import COLORS, FORMS

NUM_BINS = 50
"""Bins into which a box coordinate is sorted, over the side of its image."""


def looking_loss(attention: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """Minus the log of the attention that the first head pays to where the answer lies, averaged over answer tokens.

    `attention` is [B, heads, N, N] of one layer, `looks` [B, N, N]. It shows the model early on that an answer has a
    place, which next-token loss alone takes thousands of steps to find.
    """
    rows = looks.any(dim=-1)
    mass = (attention[:, 0] * looks).sum(dim=-1)[rows]
    return -(mass + 1e-6).log().mean() if len(mass) else attention.sum() * 0


class DenseHeads(nn.Module):
    """Reads form, colour, digit and box coordinates off each vision token; used in pre-training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(FORMS) + 2, len(COLORS), 10, *[NUM_BINS] * 4]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the mean cross entropies of all targets; features [T, width], targets [T, 7]."""
        weights = torch.ones(self.sizes[0])
        weights[0] = 0.2
        losses = []
        for column, logits in enumerate(self.linear(features).split(self.sizes, dim=-1)):
            if (targets[:, column] != -100).any():
                weight = weights if column == 0 else None
                losses.append(cross_entropy(logits, targets[:, column], weight=weight, ignore_index=-100))
        return torch.stack(losses).sum()

    def accuracies(self, features: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Shares of tokens with the right form (where there is one), colour and digit."""
        report = {}
        for column, (name, logits) in enumerate(
            zip(("form", "color", "digit"), self.linear(features).split(self.sizes, dim=-1), strict=False)
        ):
            counted = targets[:, column] > (0 if name == "form" else -1)
            report[name] = (logits.argmax(-1) == targets[:, column])[counted].float().mean().item()
        return report
