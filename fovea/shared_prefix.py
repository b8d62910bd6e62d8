"""Attention that computes what a group of rollouts shares once.

Transformers calls one attention function with the queries, keys and values of a batch. Given a `layout` among the
keyword arguments of the model's forward, the function installed here lets that layout say who attends to whom:
`PackedGroups` in training, where one row holds each group's prompt once and its branches behind it, and
`TurnCache` (environments/decoding.py) in rollouts. Without a layout nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Model families whose forward passes `layout` on to every attention layer, held by tests."""
_MARK = "layout_"
FULLNESS = 0.75
"""Branches attend together if the shortest has at least this part of the longest one's length."""


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


@dataclass
class _Bucket:
    """Branches of similar length: tokens [n, width], groups [n], whom they see [n, 1, width, reach + width]."""

    tokens: torch.Tensor
    groups: torch.Tensor
    reach: int
    mask: torch.Tensor


class PackedGroups:
    """One row of tokens: for each group its prefix, then its branches, nothing padded.

    `prefixes[g]` is the length of group g's prefix, `branches[g]` the lengths of its branches. A token attends
    causally to its own branch and to the whole prefix of its group.
    """

    def __init__(self, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device) -> None:
        prefix_starts, spans, start = [], [], 0
        for group, (prefix, lengths) in enumerate(zip(prefixes, branches, strict=True)):
            prefix_starts.append(start)
            start += prefix
            for length in lengths:
                spans.append((length, start, group))
                start += length
        runs = [(prefix_starts, prefixes)]
        self.buckets = []
        for bucket in split_by_length(spans):
            lengths, starts, groups = (list(column) for column in zip(*bucket, strict=True))
            runs.append((starts, lengths))
            mask = _mask([prefixes[group] for group in groups], lengths[0], device)
            tokens, reach = _gather_index(starts, lengths, device), mask.shape[-1] - lengths[0]
            self.buckets.append(_Bucket(tokens, torch.tensor(groups, device=device), reach, mask))
        self.prefix = _gather_index(prefix_starts, prefixes, device)
        self.source = _sources(runs, start).to(device)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """The prefixes causally, then the branches as batches over [prefix; branch]."""
        options: dict[str, Any] = {"scale": scaling, "enable_gqa": q.shape[1] != k.shape[1]}
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (q, k, v))
        qp, kp, vp = (_rows(tensor, self.prefix) for tensor in (q, k, v))
        outputs = [scaled_dot_product_attention(qp, kp, vp, is_causal=True, **options)]
        for bucket in self.buckets:
            keys, values = (
                torch.cat([shared[:, :, : bucket.reach].index_select(0, bucket.groups), _rows(own, bucket.tokens)], 2)
                for shared, own in ((kp, k), (vp, v))
            )
            query = _rows(q, bucket.tokens)
            outputs.append(scaled_dot_product_attention(query, keys, values, attn_mask=bucket.mask, **options))
        rows = torch.cat([output.transpose(1, 2).flatten(0, 1) for output in outputs])
        return rows.index_select(0, self.source).transpose(0, 1)[None]


def split_by_length(spans: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """(length, start, group) of branches, the longest first, in runs in which none is much shorter than the first."""
    buckets: list[list[tuple[int, int, int]]] = []
    for span in sorted(spans, reverse=True):
        if not buckets or span[0] < FULLNESS * buckets[-1][0][0]:
            buckets.append([])
        buckets[-1].append(span)
    return buckets


def _mask(prefixes: Sequence[int], width: int, device: torch.device) -> torch.Tensor:
    """[n, 1, width, longest prefix + width]: all of a branch's prefix, and causally the branch itself."""
    reach = max(prefixes)
    before = torch.arange(reach, device=device) < torch.tensor(prefixes, device=device)[:, None, None, None]
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    size = (len(prefixes), 1, width)
    return torch.cat([before.expand(*size, reach), causal.expand(*size, width)], dim=-1)


def _rows(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[n, heads, width, D] of a tensor [tokens, heads, D] and an index [n, width]."""
    return tensor.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)


def _gather_index(starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """[rows, longest]: the tokens of each run; beyond its end its last token again, whose output nobody reads."""
    steps = torch.arange(max(lengths))
    last = torch.tensor(lengths)[:, None] - 1
    return (torch.tensor(starts)[:, None] + torch.minimum(steps, last)).to(device)


def _sources(runs: Sequence[tuple[Sequence[int], Sequence[int]]], num_tokens: int) -> torch.Tensor:
    """For each token its row in padded outputs laid one after the other, each for (starts, lengths) of its rows."""
    source = torch.empty(num_tokens, dtype=torch.long)
    offset = 0
    for starts, lengths in runs:
        for start, length in zip(starts, lengths, strict=True):
            source[start : start + length] = torch.arange(offset, offset + length)
            offset += max(lengths)
    return source


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
