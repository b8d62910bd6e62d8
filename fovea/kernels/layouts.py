"""Attention that computes what sequences share once.

Transformers calls one attention function with the queries, keys and values of a batch. Given a `layout` among the
keyword arguments of the model's forward, the function installed here lets that layout say who attends to whom:
`PackedGroups` in training, where one row holds what all share, each group's prompt once and then the branches, and
`TurnCache` (environments/policies/turn_cache.py) in rollouts. Without a layout nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fovea.kernels.varlen_attention import Lengths, attend, gradients

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Model families whose forward passes `layout` on to every attention layer, held by tests."""
_MARK = "layout_"


Stock = Callable[[Any], torch.Tensor]
"""Calls Transformers' own attention for some rows of the batch and returns [rows, heads, T, D]."""


class Layout(Protocol):
    """Computes attention. Queries [B, heads, T, D]; keys and values [B, key heads, S, D]; result like the queries."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, stock: Stock
    ) -> torch.Tensor: ...


def allow_layouts(network: Any) -> bool:
    """Lets the language tower of `network` take a `layout`; False for one that a layout would not compute exactly.

    Those are other families, eager attention, sliding windows, dropout on attention weights, and adapters that add
    tokens of their own (prompt tuning).
    """
    base = without_adapters(network)
    if any(config.is_prompt_learning for config in getattr(network, "peft_config", {}).values()):
        return False
    return base.config.model_type in FAMILIES and attends_to_all(base) and install(base)


def attends_to_all(base: Any) -> bool:
    """Returns True if each token attends to all before it, as layouts require: no sliding windows, no dropout."""
    text = base.config.get_text_config()
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    return not slides and not text.to_dict().get("attention_dropout")


def install(base: Any) -> bool:
    """Puts the attention that takes a `layout` into the language tower; False if its own cannot be called from there.

    That is "eager", which lives in each model's file.
    """
    stock = base.config.get_text_config()._attn_implementation or "sdpa"
    if stock.startswith(_MARK):
        return True
    if stock not in ALL_ATTENTION_FUNCTIONS:
        return False
    name = f"{_MARK}{stock}"

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, layout: Layout | None = None, **kwargs: Any) -> tuple:
        if layout is None:
            return ALL_ATTENTION_FUNCTIONS[stock](module, q, k, v, mask, **kwargs)

        def of_rows(rows: Any) -> torch.Tensor:
            own = {name: _rows_of(value, rows, len(q)) for name, value in kwargs.items()}
            given = (_rows_of(tensor, rows, len(q)) for tensor in (q, k, v, mask))
            return ALL_ATTENTION_FUNCTIONS[stock](module, *given, **own)[0].transpose(1, 2)

        return layout.attend(module.layer_idx, q, k, v, kwargs["scaling"], of_rows).transpose(1, 2), None

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    base.set_attn_implementation({"text_config": name})
    return True


def _rows_of(value: Any, rows: Any, number: int) -> Any:
    """The `rows` of a tensor that has one row for each of the batch's `number`; any other value unchanged."""
    return value[rows] if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == number else value


def without_adapters(network: Any) -> Any:
    """The Transformers model itself, which a PEFT model wraps."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def no_mask(network: Any) -> Any:
    """The attention mask for a forward with a layout: a value that the model takes for a finished mask.

    Raises:
        ValueError: for a network without `allow_layouts`, which would pass over its layout in silence.
    """
    if not network.config.get_text_config()._attn_implementation.startswith(_MARK):
        raise ValueError("this network does not take layouts: call allow_layouts on it first")
    mask = torch.zeros(1, 1, 1, 1, device=network.device)
    return mask if network.config.model_type == "qwen3_vl" else {"full_attention": mask, "sliding_attention": mask}


Places = slice | torch.Tensor
"""Tokens of a row, each at most once."""


@dataclass(frozen=True)
class Call:
    """Tokens `at` attend to tokens `to`, each sequence of queries to the sequence of keys of the same number."""

    at: Places
    to: Places
    queries: Lengths
    keys: Lengths
    causal: bool


def calls(
    queries: Sequence[Sequence[int]], keys: Sequence[Sequence[int]], device: torch.device, *, causal: bool
) -> list[Call]:
    """One call of the query sequences to the key sequences. Pairs with an empty side are left out; [] if all are."""
    pairs = [(of, to) for of, to in zip(queries, keys, strict=True) if of and to]
    if not pairs:
        return []
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    at, to = (torch.tensor([place for part in side for place in part], device=device) for side in sides)
    of_queries, of_keys = (Lengths([len(part) for part in side], device) for side in sides)
    return [Call(at, to, of_queries, of_keys, causal)]


class PackedGroups:
    """One row of tokens: `common` tokens that all share, the prefix of each group, then all branches, nothing padded.

    `prefixes[g]` is the length of group g's prefix, `branches[g]` the lengths of its branches. A token attends
    causally to its own branch, and to the whole prefix of its group and the common tokens before it.
    """

    def __init__(
        self, common: int, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        end = common + sum(prefixes)
        all_shared, shared, own = slice(0, common), slice(common, end), slice(end, None)
        one_each = Lengths(prefixes, device)
        of_groups = Lengths([sum(lengths) for lengths in branches], device)
        single = Lengths([length for lengths in branches for length in lengths], device)
        self.own = [Call(shared, shared, one_each, one_each, True), Call(own, own, single, single, True)]
        """Every token and what precedes it in its own part."""
        self.before = [Call(own, shared, of_groups, one_each, False)]
        """Tokens and a part before theirs."""
        if common:
            first = Lengths([common], device)
            rest = Lengths([sum(prefixes) + sum(map(sum, branches))], device)
            self.own.append(Call(all_shared, all_shared, first, first, True))
            self.before.append(Call(slice(common, None), all_shared, rest, first, False))

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, stock: Any = None
    ) -> torch.Tensor:
        rows = [tensor[0].transpose(0, 1) for tensor in (q, k, v)]
        return attend_by_calls(rows, *self.calls(layer), scaling).transpose(0, 1)[None]

    def calls(self, layer: int) -> tuple[Sequence[Call], Sequence[Call]]:
        """By which a layer attends: each token's own part, and what stands before."""
        return self.own, self.before


def attend_by_calls(
    rows: Sequence[torch.Tensor], own: Sequence[Call], before: Sequence[Call], scaling: float
) -> torch.Tensor:
    """Attention of tokens to all that some calls give them; `rows` are q [N, heads, D], k and v [M, key heads, D].

    Each token is a query in one call of `own`; those of `before` add keys. No key may reach a query by two calls.
    What is kept for the backward grows with N alone.
    """
    q, k, v = (tensor.to(rows[-1].dtype) for tensor in rows)  # autocast leaves only v in its type
    return _AttentionByCalls.apply(q, k, v, own, before, scaling)


class _AttentionByCalls(torch.autograd.Function):
    """`attend_by_calls`."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, own: Any, before: Any, scaling: float
    ) -> torch.Tensor:
        def found(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
            given = q[call.at], k[call.to], v[call.to], call.queries, call.keys
            return attend(*given, causal=call.causal, scaling=scaling)

        output, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
        for call in own:
            output[call.at], lse[:, call.at] = found(call)
        for call in before:
            more, its = found(call)
            both = torch.logaddexp(lse[:, call.at], its)
            weight = (its - both).exp().T[:, :, None]
            output[call.at] = torch.lerp(output[call.at].float(), more.float(), weight).to(q.dtype)
            lse[:, call.at] = both
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.calls, ctx.scaling = (*own, *before), scaling
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        q, k, v, output, lse = ctx.saved_tensors
        results = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for call in ctx.calls:
            at, to = call.at, call.to
            given = grad[at], q[at], k[to], v[to], output[at], lse[:, at], call.queries, call.keys
            parts = gradients(*given, causal=call.causal, scaling=ctx.scaling)
            for result, place, part in zip(results, (at, to, to), parts, strict=True):
                result[place] += part
        return *results, None, None, None


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
