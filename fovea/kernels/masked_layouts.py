"""Attention in which images do not see each other, without a mask: who attends to whom, as calls of the kernels.

Images are sequences of their own to the kernels of `varlen_attention`; what text finds in parts is merged by
log-sum-exp. `fovea.kernels.image_blocks` says which conversations and layers are masked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise

import torch

from fovea.kernels.layouts import Call, PackedGroups, Places, Stock, attend_by_calls, calls
from fovea.kernels.varlen_attention import Lengths

OUTSIDE = -1
"""The image of a token of text."""


def number_images(ids: Sequence[int], image_token_id: int, lengths: Iterator[int] | None = None) -> list[int]:
    """For each token the number of its image from 0, `OUTSIDE` for text.

    Each run of image tokens is one image. Where images may stand side by side, `lengths` has the tokens of each.

    Raises:
        ValueError: if `lengths` are not those of the images.
    """
    numbers: list[int] = []
    image = 0
    for is_image, run in groupby(ids, lambda token: token == image_token_id):
        left = sum(1 for _ in run)
        while left:
            length = left if not is_image or lengths is None else next(lengths, 0)
            if not 0 < length <= left:
                raise ValueError(f"image {image} has {length} features, and {left} placeholders are left for it")
            numbers += [image if is_image else OUTSIDE] * length
            image += is_image
            left -= length
    return numbers


class MaskedBatch:
    """A batch of Transformers' own [B, T], `num_seen` tokens in its cache before it.

    `images[r]` numbers the tokens of row r, if it is masked; `shown` [B, T] is False on padding.
    """

    def __init__(
        self, layers: Collection[int], images: Sequence[Sequence[int]], shown: torch.Tensor, num_seen: int
    ) -> None:
        self.layers, self.num_seen = layers, num_seen
        masked = torch.tensor([bool(row) for row in images], device=shown.device)
        self.plain = (~masked).nonzero().flatten()
        self.places = (shown & masked[:, None]).flatten().nonzero().flatten()
        """Tokens of masked rows, in the batch laid end to end."""
        numbers = [number for row in images for number in row]
        lengths = Lengths([len(row) for row in images if row], shown.device)
        if num_seen:  # the new images alone: what text finds in the cache is Transformers' own affair
            of_images = [place for place, number in enumerate(numbers) if number != OUTSIDE]
            self.places = self.places[torch.tensor(of_images, device=shown.device)]
            runs = [len(list(run)) for row in images for number, run in groupby(row) if number != OUTSIDE]
            lengths = Lengths(runs, shown.device)
        whole = slice(0, lengths.bounds[-1])
        plain = [Call(whole, whole, lengths, lengths, True)]
        self.calls = (plain, []) if num_seen else blocked(plain, [], numbers)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, stock: Stock
    ) -> torch.Tensor:
        if layer not in self.layers:
            return stock(slice(None))
        new = slice(self.num_seen, self.num_seen + q.shape[2])
        rows = [_end_to_end(tensor)[self.places] for tensor in (q, k[:, :, new], v[:, :, new])]
        of_masked = attend_by_calls(rows, *self.calls, scaling)
        if self.num_seen:
            output = stock(slice(None))
        else:
            output = torch.zeros_like(q, dtype=v.dtype)
            if len(self.plain):
                output = output.index_copy(0, self.plain, stock(self.plain))
        flat = _end_to_end(output).index_copy(0, self.places, of_masked)
        return flat.unflatten(0, (len(q), -1)).transpose(1, 2)


def _end_to_end(tensor: torch.Tensor) -> torch.Tensor:
    """[B * T, heads, D] of [B, heads, T, D]."""
    return tensor.transpose(1, 2).flatten(0, 1)


class BlockedGroups(PackedGroups):
    """Groups of which some layers are masked; `images` numbers the tokens of the row, `OUTSIDE` for text."""

    def __init__(self, groups: PackedGroups, images: Sequence[int], layers: Collection[int]) -> None:
        self.own, self.before, self.layers = groups.own, groups.before, layers
        self.masked_calls = blocked(self.own, self.before, images)

    def calls(self, layer: int) -> tuple[Sequence[Call], Sequence[Call]]:
        return self.masked_calls if layer in self.layers else super().calls(layer)


def blocked(own: Sequence[Call], before: Sequence[Call], images: Sequence[int]) -> tuple[list[Call], list[Call]]:
    """The calls of a plain attention, in which each image is a sequence of its own and sees nothing else.

    `own` are causal calls of sequences to themselves, `before` calls to what precedes them whole, both over slices of
    the row whose tokens `images` numbers. A sequence's text attends to its text in one call, and to the images before
    it in as many calls as their number has bits.
    """
    parts = [_within(call, images) for call in own]
    earlier = [more for _, later in parts for more in later]
    for call in before:
        pairs = zip(_sequences(call.at, call.queries), _sequences(call.to, call.keys), strict=True)
        queries, keys = zip(*((texts_of(images, *queries), range(*keys)) for queries, keys in pairs), strict=True)
        earlier += calls(queries, keys, call.queries.offsets.device, causal=False)
    return [one for within, _ in parts for one in within], earlier


def _within(call: Call, images: Sequence[int]) -> tuple[list[Call], list[Call]]:
    """The replacements of a causal call of sequences to themselves: own calls, and calls of text to images."""
    device = call.queries.offsets.device
    texts: list[list[int]] = []
    pictures: list[list[int]] = []
    spans: defaultdict[int, tuple[list[list[int]], list[list[int]]]] = defaultdict(lambda: ([], []))
    for start, end in _sequences(call.at, call.queries):
        text: list[int] = []
        after: list[int] = []
        own: list[list[int]] = []
        for number, places in groupby(range(start, end), key=images.__getitem__):
            run = list(places)
            if number == OUTSIDE:
                text += run
                after += [len(own)] * len(run)
            else:
                own.append(run)
        texts.append(text)
        pictures += own
        for first, size in _spans(len(own)):
            queries, keys = spans[size]
            end = first + size
            queries.append([place for place, count in zip(text, after, strict=True) if end <= count < end + size])
            keys.append([place for picture in own[first:end] for place in picture])
    if not pictures:
        return [call], []
    return (
        [*calls(pictures, pictures, device, causal=True), *calls(texts, texts, device, causal=True)],
        [more for queries, keys in spans.values() for more in calls(queries, keys, device, causal=False)],
    )


def _spans(num_images: int) -> Iterator[tuple[int, int]]:
    """First image and size of spans of which some make up the images before any text, those of one size disjoint.

    Of `count` images they are those of the bits of `count`, the highest first: 6 images are a span of 4 and one of 2.
    Text after a span needs it if fewer images than its size stand between them.
    """
    for bit in range(num_images.bit_length()):
        size = 1 << bit
        yield from ((first, size) for first in range(0, num_images - size + 1, 2 * size))


def texts_of(images: Sequence[int], start: int, end: int) -> list[int]:
    """Tokens of text from `start` up to `end`."""
    return [place for place in range(start, end) if images[place] == OUTSIDE]


def _sequences(places: Places, lengths: Lengths) -> list[tuple[int, int]]:
    """First token and end of each sequence of a call over a slice of the row."""
    assert isinstance(places, slice)
    start = places.start or 0
    return [(start + first, start + end) for first, end in pairwise(lengths.bounds)]
