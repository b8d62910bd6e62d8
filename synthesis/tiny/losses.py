"""The auxiliary losses of pre-training, whose heads are thrown away after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from synthesis.shapes.albums import MAX_IMAGES
from synthesis.shapes.scenes import COLORS, FORMS

LOOKING_LAYER = 2
"""The layer of the language model whose first head learns to look."""
NUM_BINS = 50
"""Bins into which a box coordinate is sorted, over the side of its image."""
FORM_WEIGHT = 3.0
"""Of the form among the dense losses: by it alone shapes of one colour differ, and small views tell it worst."""


@contextmanager
def attention_of_first_head(model: Any, layer: int) -> Iterator[list[torch.Tensor]]:
    """A list that gets the attention weights [B, N, N] of the first head of `layer` at every forward in the block."""
    captured: list[torch.Tensor] = []

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float | None = None, **kwargs: Any) -> tuple:
        if module.layer_idx == layer:
            scores = q[:, 0] @ k[:, 0].transpose(1, 2) * scaling
            seen = mask[:, 0] if mask is not None else torch.ones_like(scores, dtype=torch.bool).tril()
            captured.append(scores.masked_fill(~seen, float("-inf")).softmax(dim=-1))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, scaling=scaling, **kwargs)

    AttentionInterface.register("first_head", attention)
    AttentionMaskInterface.register("first_head", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation({"text_config": "first_head"})
    try:
        yield captured
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


def looking_loss(attention: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """Minus the log of the attention that one head pays to where the answer lies, averaged over answer tokens.

    `attention` and `looks` are [B, N, N]. It shows the model early on that an answer has a place, which next-token loss
    alone takes thousands of steps to find.
    """
    rows = looks.any(dim=-1)
    mass = (attention * looks).sum(dim=-1)[rows]
    return -(mass + 1e-6).log().mean() if len(mass) else attention.sum() * 0


class DenseHeads(nn.Module):
    """Reads form, colour, digit and box coordinates off each vision token; used in pre-training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(FORMS) + 2, len(COLORS), 10, *[NUM_BINS] * 4]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the mean cross entropies of all targets; features [T, width], targets [T, 7]."""
        weights = torch.ones(self.sizes[0])
        weights[0] = 0.2
        losses = []
        for column, logits in enumerate(self.linear(features).split(self.sizes, dim=-1)):
            if (targets[:, column] != -100).any():
                weight = weights if column == 0 else None
                loss = cross_entropy(logits, targets[:, column], weight=weight, ignore_index=-100)
                losses.append(FORM_WEIGHT * loss if column == 0 else loss)
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


class NumberHead(nn.Module):
    """Reads the number of a picture off tokens within the language model; used in pre-training only.

    The number stands in the text before a picture. One head reads it off the picture's own tokens, below the layer that
    looks; another one off the tokens of answers, behind it. So whoever looks at a place knows in which picture it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, MAX_IMAGES)

    def forward(self, hidden: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy; hidden [B, N, width], numbers [B, N] with -100 where there is none."""
        if (numbers == -100).all():
            return hidden.sum() * 0
        return cross_entropy(self.linear(hidden).flatten(0, 1), numbers.flatten(), ignore_index=-100)


@dataclass
class Watched:
    """Outputs of a forward pass that the auxiliary losses read."""

    attention: list[torch.Tensor]
    """Of the first head of the layer that looks, [B, N, N]."""
    features: list[torch.Tensor] = field(default_factory=list)
    """Of the vision tower, [visual tokens, width]."""
    hidden: list[torch.Tensor] = field(default_factory=list)
    """Behind the layer below that one, and behind it, [B, N, width]."""

    def clear(self) -> None:
        for part in (self.attention, self.features, self.hidden):
            part.clear()


@contextmanager
def watched(model: Any) -> Iterator[Watched]:
    """Keeps what forward passes in this block leave for the auxiliary losses."""
    layers = model.model.language_model.layers[LOOKING_LAYER - 1 : LOOKING_LAYER + 1]
    with attention_of_first_head(model, LOOKING_LAYER) as attention:
        seen = Watched(attention)
        hooks = [layer.register_forward_hook(lambda *args: seen.hidden.append(args[-1])) for layer in layers]
        hooks.append(
            model.model.visual.register_forward_hook(lambda *args: seen.features.append(args[-1].pooler_output))
        )
        yield seen
    for hook in hooks:
        hook.remove()
