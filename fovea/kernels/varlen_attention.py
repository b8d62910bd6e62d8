"""Softmax attention over sequences laid end to end, with its log-sum-exp, which autograd's kernels keep to themselves.

The log-sum-exp of each query lets attention to two sets of keys be computed apart and merged, forward and backward:
with the output and log-sum-exp over all keys, the flash backward over one set gives just that set's share of the
gradients (FlashAttention-2, Dao 2023, section 3.1). Nothing is padded, and the kernels need no mask. On CUDA that is
flash attention where it runs (bfloat16 and float16 from compute capability 8.0), otherwise PyTorch's memory-efficient
attention (float32, and float16 on older cards). What has neither computes by formula, one sequence's
[heads, queries, keys] in memory at a time.

Shapes: queries [N, heads, D]; keys and values [M, key heads, D], heads a multiple of key heads; outputs like the
queries; log-sum-exps [heads, N] in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

_aten = torch.ops.aten


class Lengths:
    """Lengths of sequences that lie end to end, none of them 0."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.bounds = list(accumulate(lengths, initial=0))
        self.longest = max(lengths)
        self.offsets = torch.tensor(self.bounds, dtype=torch.int32, device=device)

    def __iter__(self) -> Iterator[slice]:
        return (slice(start, end) for start, end in pairwise(self.bounds))

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The sequence of each token [N], and the token's place in it [N]."""
        tokens = torch.arange(self.bounds[-1], device=self.offsets.device)
        sequence = torch.bucketize(tokens, self.offsets[1:-1], right=True)
        return sequence, tokens - self.offsets[sequence]


def attend(
    q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths, *, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of each query sequence over the key sequence of the same number."""
    if _has_flash(q):
        spans = (queries.offsets, keys.offsets, queries.longest, keys.longest)
        output, lse, *_ = _aten._flash_attention_forward(q, k, v, *spans, 0.0, causal, False, scale=scaling)
        return output, lse
    if _has_efficient(q):
        return _attend_efficiently(q, k, v, queries, keys, causal, scaling)
    output, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    kernel = _kernels(q)[0]
    for at, to in zip(queries, keys, strict=True):
        found, lse[None, :, at] = kernel(*map(_as_batch, (q[at], k[to], v[to])), 0.0, causal, scale=scaling)
        output[at] = found[0].transpose(0, 1)
    return output, lse


def gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, queries: Lengths, keys: Lengths,
    *, causal: bool, scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v, given the gradient of `output`; that and `lse` may be those over more keys than k."""
    if _has_flash(q):
        spans = (queries.offsets, keys.offsets, queries.longest, keys.longest)
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        return _aten._flash_attention_backward(
            grad, q, k, v, output, lse.contiguous(), *spans, 0.0, causal, *no_dropout, scale=scaling
        )
    if _has_efficient(q):
        return _gradients_efficiently(grad, q, k, v, output, lse, queries, keys, causal, scaling)
    kernel = _kernels(q)[1]
    results = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for at, to in zip(queries, keys, strict=True):
        given = map(_as_batch, (grad[at], q[at], k[to], v[to], output[at]))
        found = kernel(*given, lse[None, :, at], 0.0, causal, scale=scaling)
        for result, place, part in zip(results, (at, to, to), found, strict=True):
            result[place] = part[0].transpose(0, 1)
    return results


def _has_flash(q: Tensor) -> bool:
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _has_efficient(q: Tensor) -> bool:
    """Of bfloat16 these kernels run on the cards alone that have flash attention; they read 16 bytes at a time."""
    is_nvidia = q.device.type == "cuda" and torch.version.hip is None
    return is_nvidia and q.dtype in (torch.float32, torch.float16) and q.shape[-1] * q.element_size() % 16 == 0


def _attend_efficiently(
    q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    given = [_as_row(tensor) for tensor in (q, _for_each_head(k, q), _for_each_head(v, q))]
    spans = (queries.offsets, keys.offsets, queries.longest, keys.longest)
    output, padded, *_ = _aten._efficient_attention_forward(
        *given, None, *spans, 0.0, int(causal), compute_log_sumexp=True, scale=scaling
    )
    sequence, place = queries.places
    return output[0], padded[sequence, :, place].T


def _gradients_efficiently(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, queries: Lengths, keys: Lengths,
    causal: bool, scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans = (queries.offsets, keys.offsets, queries.longest, keys.longest)
    longest = -(-queries.longest // _LSE_MULTIPLE) * _LSE_MULTIPLE
    padded = lse.new_full((len(queries.bounds) - 1, len(lse), longest), float("inf"))
    sequence, place = queries.places
    padded[sequence, :, place] = lse.T
    no_dropout = torch.zeros(2, dtype=torch.int64, device=q.device)
    given = [_as_row(tensor) for tensor in (grad, q, _for_each_head(k, q), _for_each_head(v, q))]
    of_q, *of_others, _ = _aten._efficient_attention_backward(
        *given, None, _as_row(output), *spans, padded, 0.0, *no_dropout, int(causal), False, scale=scaling
    )
    of_k, of_v = (part[0].unflatten(1, (k.shape[1], -1)).sum(2) for part in of_others)
    return of_q[0], of_k, of_v


_LSE_MULTIPLE = 32
"""To which these kernels pad the log-sum-exps [sequences, heads, longest]."""


def _as_row(tensor: Tensor) -> Tensor:
    """[1, N, heads, D], as kernels of sequences laid end to end take it."""
    return tensor.contiguous()[None]


def _for_each_head(tensor: Tensor, q: Tensor) -> Tensor:
    """Keys or values [M, key heads, D] once for each head of q that reads them."""
    return tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1)


def _kernels(q: Tensor) -> tuple[Callable, Callable]:
    """Forward and backward of one sequence."""
    if q.device.type == "cpu":
        flash = _aten._scaled_dot_product_flash_attention_for_cpu
        return flash, _aten._scaled_dot_product_flash_attention_for_cpu_backward
    return attend_by_formula, gradients_by_formula


def _as_batch(tensor: Tensor) -> Tensor:
    """[1, heads, N, D], as kernels of one sequence take it."""
    return tensor.transpose(0, 1)[None]


def attend_by_formula(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, causal: bool, *, scale: float
) -> tuple[Tensor, Tensor]:
    """The same of one batch [1, heads, N, D] in plain PyTorch, for devices and types that have no kernel."""
    scores = _scores(q, k, causal, scale)
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp()
    return (weights @ _repeated(v, q).float()).to(q.dtype), lse


def gradients_by_formula(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, dropout: float, causal: bool,
    *, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `attend_by_formula`."""
    grad, (_, heads, num_keys, width) = grad.float(), k.shape
    weights = (_scores(q, k, causal, scale) - lse[..., None]).exp()
    through = weights * (grad @ _repeated(v, q).float().mT - (grad * output).sum(-1, keepdim=True)) * scale
    of_keys, of_values = (
        part.view(1, heads, -1, num_keys, width).sum(2) for part in (through.mT @ q.float(), weights.mT @ grad)
    )
    return (through @ _repeated(k, q).float()).to(q.dtype), of_keys.to(k.dtype), of_values.to(v.dtype)


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    scores = (q.float() @ _repeated(k, q).float().mT) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores


def _repeated(heads: Tensor, q: Tensor) -> Tensor:
    """Keys or values once for each head of q that reads them."""
    return heads.repeat_interleave(q.shape[1] // heads.shape[1], dim=1)
