"""Attention that computes what a group of rollouts shares once.

Transformers calls one attention function with the queries, keys and values of a batch. Given a `layout` among the
keyword arguments of the model's forward, the function installed here lets that layout say who attends to whom:
`PackedGroups` in training, where one row holds each group's prompt once and then the branches, and
`TurnCache` (environments/decoding.py) in rollouts. Without a layout nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fovea.varlen_attention import Lengths, attend, gradients

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Model families whose forward passes `layout` on to every attention layer, held by tests."""
_MARK = "layout_"


class Layout(Protocol):
    """Who attends to whom. Queries [B, heads, T, D]; keys and values [B, key heads, T, D]; result like the queries."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor: ...


def allow_layouts(network: Any) -> bool:
    """Lets the language tower of `network` take a `layout`; False for one that a layout would not compute exactly.

    Those are other families, sliding windows, and dropout on attention weights.
    """
    base = without_adapters(network)
    text = base.config.get_text_config()
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    if base.config.model_type not in FAMILIES or slides or text.to_dict().get("attention_dropout"):
        return False
    stock = text._attn_implementation or "sdpa"
    if stock.startswith(_MARK):
        return True
    name = f"{_MARK}{stock}"

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, layout: Layout | None = None, **kwargs: Any) -> tuple:
        if layout is None:
            return ALL_ATTENTION_FUNCTIONS[stock](module, q, k, v, mask, **kwargs)
        return layout.attend(module.layer_idx, q, k, v, kwargs["scaling"]).transpose(1, 2), None

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    base.set_attn_implementation({"text_config": name})
    return True


def without_adapters(network: Any) -> Any:
    """The Transformers model itself, which a PEFT model wraps."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def no_mask(network: Any) -> Any:
    """What a forward with a layout passes as its attention mask: something the model takes for a finished one.

    Raises:
        ValueError: for a network without `allow_layouts`, which would pass over its layout in silence.
    """
    if not network.config.get_text_config()._attn_implementation.startswith(_MARK):
        raise ValueError("this network does not take layouts: call allow_layouts on it first")
    mask = torch.zeros(1, 1, 1, 1, device=network.device)
    return mask if network.config.model_type == "qwen3_vl" else {"full_attention": mask, "sliding_attention": mask}


class PackedGroups:
    """One row of tokens: the prefix of each group, one behind the other, then all branches, nothing padded.

    `prefixes[g]` is the length of group g's prefix, `branches[g]` the lengths of its branches. A token attends
    causally to its own branch and to the whole prefix of its group.
    """

    def __init__(self, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device) -> None:
        self.num_shared = sum(prefixes)
        self.prefixes = Lengths(prefixes, device)
        self.groups = Lengths([sum(lengths) for lengths in branches], device)
        self.branches = Lengths([length for lengths in branches for length in lengths], device)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        rows = (tensor[0].transpose(0, 1).to(v.dtype) for tensor in (q, k, v))  # autocast leaves only v in its type
        return _GroupAttention.apply(*rows, self, scaling).transpose(0, 1)[None]

    @property
    def calls(self) -> list[tuple[slice, slice, Lengths, Lengths, bool]]:
        """Who attends to whom: tokens that ask, tokens that answer, their sequences, and whether causally."""
        shared, own = slice(0, self.num_shared), slice(self.num_shared, None)
        return [
            (shared, shared, self.prefixes, self.prefixes, True),
            (own, shared, self.groups, self.prefixes, False),
            (own, own, self.branches, self.branches, True),
        ]


class _GroupAttention(torch.autograd.Function):
    """Attention of `PackedGroups`; q [N, heads, D], k and v [N, key heads, D]. What it keeps grows with N alone."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: PackedGroups, scaling: float
    ) -> torch.Tensor:
        (shared, lse_shared), (to_prefix, a), (to_own, b) = (
            attend(q[at], k[to], v[to], queries, keys, causal=causal, scaling=scaling)
            for at, to, queries, keys, causal in layout.calls
        )
        lse = torch.logaddexp(a, b)
        weight = (a - lse).exp().T[:, :, None].to(q.dtype)
        output = torch.cat([shared, torch.lerp(to_own, to_prefix, weight)])
        ctx.save_for_backward(q, k, v, output, torch.cat([lse_shared, lse], dim=1))
        ctx.layout, ctx.scaling = layout, scaling
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        q, k, v, output, lse = ctx.saved_tensors
        results = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for at, to, queries, keys, causal in ctx.layout.calls:
            given = grad[at], q[at], k[to], v[to], output[at], lse[:, at]
            parts = gradients(*given, queries, keys, causal=causal, scaling=ctx.scaling)
            for result, place, part in zip(results, (at, to, to), parts, strict=True):
                result[place] += part
        return *results, None, None


def rope_positions(
    network: Any, ids: Sequence[int], image_token_id: int, grids: Sequence[torch.Tensor]
) -> torch.Tensor:
    """M-RoPE positions [3, N] of one sequence whose first position is 0; `grids` are its images' [t, h, w] in order."""
    input_ids = torch.tensor([list(ids)])
    grid = torch.stack([g.cpu() for g in grids]) if grids else None
    kinds = (input_ids == image_token_id).long()
    return without_adapters(network).base_model.get_rope_index(input_ids, mm_token_type_ids=kinds, image_grid_thw=grid)[
        0
    ][:, 0]
