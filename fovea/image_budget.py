"""Sizes of several images within a common budget of visual tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fovea.boxes import Size
from fovea.images import PixelLimits


def within_budget(sizes: Sequence[Size], limits: Sequence[PixelLimits], max_tokens: int) -> list[PixelLimits]:
    """The limits of several images, lowered evenly until all together have at most `max_tokens` visual tokens.

    One bound holds for all: images that have fewer tokens keep theirs, and leave the rest to the larger ones.

    >>> one = PixelLimits(256, 1_000_000, 16)
    >>> [limit.fit_size(size) for limit, size in zip(within_budget([(1600, 1600), (160, 160)], [one, one], 1000),
    ...                                              [(1600, 1600), (160, 160)])]
    [(480, 480), (160, 160)]

    Raises:
        ValueError: if even the least that a processor shows of each image is more.
    """

    def tokens_of(shown: Sequence[PixelLimits]) -> list[int]:
        pairs = zip(shown, sizes, strict=True)
        return [math.prod(limit.fit_size(size)) // limit.factor**2 for limit, size in pairs]

    tokens = tokens_of(limits)
    if sum(tokens) <= max_tokens:
        return list(limits)
    least = sum(-(-limit.min_pixels // limit.factor**2) for limit in limits)
    if least > max_tokens:
        raise ValueError(
            f"{len(sizes)} images have at least {least} visual tokens, more than --max_image_tokens {max_tokens}: "
            "raise it"
        )
    low, high = 1, max(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        shown = [_most(limit, middle) for limit in limits]
        total = sum(
            math.prod(limit.fit_size(size)) // limit.factor**2 for limit, size in zip(shown, sizes, strict=True)
        )
        low, high = (middle, high) if total <= max_tokens else (low, middle - 1)
    return [_most(limit, low) for limit in limits]


def _most(limits: PixelLimits, tokens: int) -> PixelLimits:
    """The limits with at most `tokens` visual tokens, but not below the processor's minimum."""
    most = max(limits.min_pixels, min(limits.max_pixels, tokens * limits.factor**2))
    return PixelLimits(limits.min_pixels, most, limits.factor)
