"""Vision attention that takes all images of one size in a single call.

Transformers' sdpa path attends image by image (and window by window in Qwen2.5-VL), which on small images costs more
than the arithmetic. The result here is the same; only the batching differs.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def batch_vision_attention(model: nn.Module) -> nn.Module:
    """`model` with every Qwen-VL vision attention batched over images (or windows) of equal length.

    Models without such attention, or with flash attention, are returned as they are.
    """
    module: Any
    for module in model.modules():
        if type(module).__name__ not in ("Qwen3VLVisionAttention", "Qwen2_5_VLVisionAttention"):
            continue
        if "flash" not in (module.config._attn_implementation or ""):
            module.forward = MethodType(_forward, module)
    return model


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Attention output [tokens, width] of packed images, `cu_seqlens` [images + 1] their running lengths."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    num_tokens = hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).reshape(num_tokens, 3, self.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    if len(set(lengths)) == 1:
        output = _attend(q, k, v, lengths[0], self.scaling)
    else:
        output = torch.empty_like(q)
        lengths_of_tokens = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(lengths)).to(q.device)
        for length in set(lengths):
            rows = (lengths_of_tokens == length).nonzero().squeeze(1)
            output = output.index_copy(0, rows, _attend(q[rows], k[rows], v[rows], length, self.scaling))
    return self.proj(output.reshape(num_tokens, -1))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int, scaling: float) -> torch.Tensor:
    """Full attention within runs of `length` tokens; all tensors [tokens, heads, head width]."""
    q, k, v = (tensor.unflatten(0, (-1, length)).transpose(1, 2) for tensor in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)
