"""Attention that computes what a group of rollouts shares once.

Transformers calls one attention function with the queries, keys and values of a batch. Given a `layout` among the
keyword arguments of the model's forward, the function installed here lets that layout say who attends to whom:
`PackedGroups` in training, where one row holds each group's prompt once and its branches behind it, and
`TurnCache` (environments/decoding.py) in rollouts. Without a layout nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

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
    """One row of tokens: for each group its prefix, then its branches, nothing padded.

    `prefixes[g]` is the length of group g's prefix, `branches[g]` the lengths of its branches. A token attends
    causally to its own branch and to the whole prefix of its group.
    """

    def __init__(self, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device) -> None:
        self.num_tokens = sum(prefixes) + sum(map(sum, branches))
        prefix_starts, branch_starts, group_of_branch, start = [], [], [], 0
        for group, (prefix, lengths) in enumerate(zip(prefixes, branches, strict=True)):
            prefix_starts.append(start)
            start += prefix
            for length in lengths:
                branch_starts.append(start)
                group_of_branch.append(group)
                start += length
        flat = [length for lengths in branches for length in lengths]
        self.prefix = _gather_index(prefix_starts, prefixes, device)
        self.branch = _gather_index(branch_starts, flat, device)
        self.group_of_branch = torch.tensor(group_of_branch, device=device)
        self.source = self._sources(prefixes, flat, prefix_starts, branch_starts, device)
        width = self.branch.shape[1]
        in_prefix = torch.arange(self.prefix.shape[1], device=device) < torch.tensor(prefixes, device=device)[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        before = in_prefix[self.group_of_branch, None, None, :].expand(-1, 1, width, -1)
        self.mask = torch.cat([before, causal.expand(len(flat), 1, -1, -1)], dim=-1)

    def _sources(self, prefixes, branches, prefix_starts, branch_starts, device) -> torch.Tensor:
        """For each token, its row in the outputs of the two calls laid one after the other."""
        source = torch.empty(self.num_tokens, dtype=torch.long)
        for row, (start, length) in enumerate(zip(prefix_starts, prefixes, strict=True)):
            source[start : start + length] = torch.arange(length) + row * self.prefix.shape[1]
        for row, (start, length) in enumerate(zip(branch_starts, branches, strict=True)):
            source[start : start + length] = torch.arange(length) + self.prefix.numel() + row * self.branch.shape[1]
        return source.to(device)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Two calls: the prefixes causally, then the branches as a batch over [prefix; branch]."""
        gqa = q.shape[1] != k.shape[1]
        (qp, kp, vp), (qb, kb, vb) = (
            [tensor[0][:, index].transpose(0, 1) for tensor in (q, k, v)] for index in (self.prefix, self.branch)
        )
        prefix = scaled_dot_product_attention(qp, kp, vp, is_causal=True, scale=scaling, enable_gqa=gqa)
        keys = torch.cat([kp[self.group_of_branch], kb], dim=2)
        values = torch.cat([vp[self.group_of_branch], vb], dim=2)
        branch = scaled_dot_product_attention(qb, keys, values, attn_mask=self.mask, scale=scaling, enable_gqa=gqa)
        rows = torch.cat([out.transpose(1, 2).flatten(0, 1) for out in (prefix, branch)])
        return rows[self.source].transpose(0, 1)[None]


def _gather_index(starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """[rows, longest]: the tokens of each run; beyond its end its last token again, whose output nobody reads."""
    steps = torch.arange(max(lengths))
    last = torch.tensor(lengths)[:, None] - 1
    return (torch.tensor(starts)[:, None] + torch.minimum(steps, last)).to(device)


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
