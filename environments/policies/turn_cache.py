"""Keys and values that rollouts keep from turn to turn, and the layout by which new tokens attend to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from fovea.kernels.layouts import Call, attend_by_calls, calls
from fovea.kernels.masked_layouts import OUTSIDE, blocked, texts_of
from fovea.kernels.varlen_attention import Lengths

NARROW = 32
"""New tokens a row up to which a prefix is read once for all its rows; more are attended to without keeping scores."""
MOST_SCORES = 2**27
"""Scores that may be kept for that, of all heads: half a GiB in float32."""


@dataclass
class Prefix:
    """Keys and values of a prompt that several conversations share: of each layer both, each [key heads, N, D]."""

    layers: list[torch.Tensor]
    num_tokens: int
    next_position: int
    is_masked: bool = False
    """True if the prompt's images are masked from each other, in the layers that the network masks."""


@dataclass
class Cache:
    """The stored part of a conversation: the prefix of its prompt, and keys and values of the tokens behind it."""

    prefix: Prefix
    layers: list[torch.Tensor]
    num_seen: int
    num_images: int
    next_position: int

    @property
    def num_behind(self) -> int:
        return self.num_seen - self.prefix.num_tokens


class TurnCache:
    """Keys and values of the rows that are being continued, and the `Layout` by which they attend.

    Rows of one prompt share its prefix, which is stored once; behind it each row has places of its own, at first `room`
    more than its cache fills.
    """

    def __init__(self, caches: Sequence[Cache], room: int) -> None:
        self._share([cache.prefix for cache in caches])
        self.own = [_stack([cache.layers[layer] for cache in caches], room) for layer in range(len(self.prefix))]
        self.length = torch.tensor([cache.num_behind for cache in caches], device=self.group.device)
        self._regroup()

    def _share(self, prefix_of_row: Sequence[Prefix]) -> None:
        """Stores the prefixes of these rows, each once."""
        self.prefixes = list({id(prefix): prefix for prefix in prefix_of_row}.values())
        device = self.prefixes[0].layers[0].device
        self.prefix = [_stack(list(parts)) for parts in zip(*(p.layers for p in self.prefixes), strict=True)]
        lengths = torch.tensor([prefix.num_tokens for prefix in self.prefixes], device=device)
        self.in_prefix = torch.arange(self.prefix[0].shape[2], device=device) < lengths[:, None]
        self.group = self._groups_of(prefix_of_row)

    def _groups_of(self, prefix_of_row: Sequence[Prefix]) -> torch.Tensor:
        """The number of the stored prefix that each row has [rows]."""
        order = {id(prefix): number for number, prefix in enumerate(self.prefixes)}
        numbers = [order[id(prefix)] for prefix in prefix_of_row]
        return torch.tensor(numbers, device=self.prefix[0].device)

    def join(self, other: TurnCache) -> None:
        """Adds the rows of another one behind its own."""
        rows = [cache.prefixes[number] for cache in (self, other) for number in cache.group.tolist()]
        needed, stored = {id(prefix) for prefix in rows}, {id(prefix) for prefix in self.prefixes}
        if needed <= stored and len(stored) <= 2 * len(needed):
            self.group = self._groups_of(rows)
        else:
            self._share(rows)
        room = max(cache.own[0].shape[2] for cache in (self, other))
        for layer in range(len(self.own)):
            self.own[layer] = torch.cat([_widened(cache.own[layer], room) for cache in (self, other)])
        self.length = torch.cat([self.length, other.length])
        self._regroup()

    def _regroup(self) -> None:
        """Row numbers by prefix [prefixes, most rows], and where each row stands in them."""
        by_group = self.group.argsort(stable=True)
        counts = self.group.bincount(minlength=len(self.in_prefix))
        before = (counts.cumsum(0) - counts)[self.group[by_group]]
        most = int(counts.max())
        places = torch.arange(len(self.group), device=self.group.device) - before + self.group[by_group] * most
        self.rows = self.group.new_zeros(len(counts) * most).scatter(0, places, by_group).view(-1, most)
        self.place = torch.empty_like(self.group).scatter(0, by_group, places)

    def expect(self, width: int) -> None:
        """Announces the next forward: `width` new tokens a row, of which `keep_new` says how many stay."""
        self.blocks: _Chunks | None = None
        steps = torch.arange(width, device=self.length.device)
        self.at = self.length[:, None] + steps
        self.reach = int(self.length.max()) + width
        capacity = self.own[0].shape[2]
        if self.reach > capacity:
            for layer, kept in enumerate(self.own):
                self.own[layer] = _widened(kept, max(self.reach, 2 * capacity))
        self.own_mask = torch.arange(self.reach, device=self.length.device) <= self.at[:, :, None]
        self._chunk_mask: torch.Tensor | None = None

    def _mask(self) -> torch.Tensor:
        """Mask of the earlier places that each new token sees [rows, 1, width, prefix + reach]."""
        if self._chunk_mask is None:
            width = self.at.shape[1]
            before = self.in_prefix[self.group][:, None, :].expand(-1, width, -1)
            self._chunk_mask = torch.cat([before, self.own_mask], dim=2)[:, None]
        return self._chunk_mask

    def expect_images(self, images: Sequence[Sequence[int]], layers: Collection[int]) -> None:
        """Numbers the tokens of the next forward by their images, of which each sees itself alone in these layers."""
        if any(number != OUTSIDE for row in images for number in row):
            self.blocks, self.masked_layers = _Chunks(self, images), layers

    def keep_new(self, counts: torch.Tensor) -> None:
        """Keeps the first `counts[r]` tokens that row r brought; those behind them will be written over."""
        self.length = self.length + counts

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows but these."""
        self.group, self.length = self.group[rows], self.length[rows]
        for layer, kept in enumerate(self.own):
            self.own[layer] = kept[rows]
        self._regroup()

    def layers_of(self, row: int) -> list[torch.Tensor]:
        """A copy of a row's own keys and values."""
        return [layer[row, :, : int(self.length[row])].clone() for layer in self.own]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, stock: Any = None
    ) -> torch.Tensor:
        both = slice(2 * layer, 2 * layer + 2)
        index = self.at[:, None, :, None].expand_as(k)  # [rows, key heads, T, D]
        for kept, new in zip(self.own[both], (k, v), strict=True):
            kept.scatter_(2, index, new.to(kept.dtype))  # under autocast their types differ
        if self.blocks is not None and layer in self.masked_layers:
            return self.blocks.attend(q, (k, v), self.prefix[both], self.own[both], scaling)
        own, prefix = [kept[:, :, : self.reach] for kept in self.own[both]], self.prefix[both]
        width = q.shape[2]
        num_scores = q.shape[1] * width * (self.rows.numel() * prefix[0].shape[2] + len(q) * self.reach)
        if width > NARROW or (width > 1 and num_scores > MOST_SCORES):  # [rows, key heads, prefix + reach, D]
            keys, values = (torch.cat([p[self.group], o], dim=2) for p, o in zip(prefix, own, strict=True))
            gqa = q.shape[1] != k.shape[1]
            return scaled_dot_product_attention(q, keys, values, self._mask(), scale=scaling, enable_gqa=gqa)
        return self._attend_few(q, own, prefix, scaling)

    def _attend_few(
        self, q: torch.Tensor, own: Sequence[torch.Tensor], prefix: Sequence[torch.Tensor], scaling: float
    ) -> torch.Tensor:
        """Few new tokens a row: each prefix is read once for all its rows, not once a row."""
        # B rows of T tokens, K key heads of R queries each, P prefixes of N places and at most M rows, O places behind
        shape, minus_infinity = q.shape, float("-inf")
        repeats = shape[1] // own[0].shape[1]
        q = (q * scaling).unflatten(1, (-1, repeats)).flatten(2, 3)  # [B, K, R * T, D]
        each = q.shape[2]
        grouped = q[self.rows].transpose(1, 2).flatten(2, 3)  # [P, K, M * R * T, D]
        scores = (grouped @ prefix[0].transpose(2, 3)).masked_fill(~self.in_prefix[:, None, None], minus_infinity)
        to_prefix = self._by_row(scores, each)  # [B, K, R * T, N]
        unseen = ~self.own_mask[:, None].repeat(1, 1, repeats, 1)  # [B, 1, R * T, O]
        to_own = (q @ own[0].transpose(2, 3)).masked_fill(unseen, minus_infinity)  # [B, K, R * T, O]
        weights = torch.cat([to_prefix, to_own], dim=3).float().softmax(-1).to(q.dtype)  # [B, K, R * T, N + O]
        on_prefix, on_own = weights.split([prefix[0].shape[2], self.reach], dim=3)
        grouped = on_prefix[self.rows].transpose(1, 2).flatten(2, 3) @ prefix[1]  # [P, K, M * R * T, D]
        output = self._by_row(grouped, each) + on_own @ own[1]  # [B, K, R * T, D]
        return output.reshape(shape)

    def _by_row(self, grouped: torch.Tensor, each: int) -> torch.Tensor:
        """[P, K, M * each, X] by prefix as [B, K, each, X] by row."""
        return grouped.unflatten(2, (-1, each)).transpose(1, 2).flatten(0, 1)[self.place]


class _Chunks:
    """Keys that the new tokens of `TurnCache`'s rows attend to, where images are masked from each other.

    `images` numbers each row's new tokens. Keys are the new tokens, the prefixes and what the rows have, end to end.
    """

    def __init__(self, turn: TurnCache, images: Sequence[Sequence[int]]) -> None:
        device, counts = turn.length.device, list(map(len, images))
        self.shown = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(device)
        numbers = list(chain.from_iterable(images))
        whole, row = Lengths(counts, device), slice(0, len(numbers))
        self.own, self.before = blocked([Call(row, row, whole, whole, True)], [], numbers)
        texts = [texts_of(numbers, start, end) for start, end in pairwise(whole.bounds)]
        num_prefixes, width = turn.in_prefix.shape
        in_prefix = turn.in_prefix.sum(1).tolist()
        starts = [len(numbers) + width * group for group in turn.group.tolist()]
        prefixes = [
            range(start, start + in_prefix[group]) for start, group in zip(starts, turn.group.tolist(), strict=True)
        ]
        first, capacity = len(numbers) + width * num_prefixes, turn.own[0].shape[2]
        starts = [first + capacity * row for row in range(len(counts))]
        owned = [range(start, start + length) for start, length in zip(starts, turn.length.tolist(), strict=True)]
        for keys in (prefixes, owned):
            self.before += calls(texts, keys, device, causal=False)

    def attend(
        self, q: torch.Tensor, new: Sequence[torch.Tensor], prefix: Sequence[torch.Tensor],
        own: Sequence[torch.Tensor], scaling: float,
    ) -> torch.Tensor:  # fmt: skip
        """All tensors [rows or prefixes, heads or key heads, places, D], keys before values; the result like q."""
        flat = [[tensor.transpose(1, 2) for tensor in kind] for kind in zip(new, prefix, own, strict=True)]
        k, v = (torch.cat([new[self.shown], *(kept.flatten(0, 1) for kept in rest)]) for new, *rest in flat)
        q = q.transpose(1, 2)
        output = torch.zeros_like(q, dtype=v.dtype)
        output[self.shown] = attend_by_calls([q[self.shown], k, v], self.own, self.before, scaling)
        return output.transpose(1, 2)


def _widened(kept: torch.Tensor, room: int) -> torch.Tensor:
    """[rows, key heads, room, D] of [rows, key heads, at most room, D], zero where nothing stands yet."""
    return torch.nn.functional.pad(kept, (0, 0, 0, room - kept.shape[2]))


def _stack(layers: Sequence[torch.Tensor], room: int = 0) -> torch.Tensor:
    """[rows, key heads, longest + room, D] of tensors [key heads, N, D], zero where nothing stands yet."""
    heads, _, width = layers[0].shape
    stacked = layers[0].new_zeros(len(layers), heads, max(layer.shape[1] for layer in layers) + room, width)
    for row, layer in enumerate(layers):
        stacked[row, :, : layer.shape[1]] = layer
    return stacked
