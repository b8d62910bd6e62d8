"""Fewer tokens an image: each run of `factor` neighbours in reading order becomes their mean.

MIMIC's analysis (arXiv 2601.07812): what a model loses, or gains, when its images are shorter and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import interpolate

from fovea.kernels.layouts import without_adapters
from fovea.replacing import replaced


@contextmanager
def pooled_tokens(network: Any, factor: int) -> Iterator[None]:
    """In here the network's images have a `factor`-th of their tokens, rounded up.

    A mean takes the M-RoPE position of the middle one of its tokens; text stays where it was. Prompts must hold as many
    placeholders (`Renderer.token_pooling`).

    Raises:
        ValueError: for a factor below 1, or a network of which image features are not known.
    """
    if factor < 1:
        raise ValueError(f"token_pooling {factor} is below 1: give the number of tokens that become one, 1 or more")
    if factor == 1:  # also for what is no network of ours, as a model behind an endpoint
        yield
        return
    base = without_adapters(network).base_model
    if not hasattr(base, "get_image_features"):
        raise ValueError(f"the image features of a {type(base).__name__} are not known, and cannot be pooled")
    with ExitStack() as stack:
        stack.enter_context(replaced(base, "get_image_features", _pooling(base.get_image_features, factor)))
        if hasattr(base, "get_rope_index"):
            places = _of_pooled(base.get_rope_index, base.config, factor)
            stack.enter_context(replaced(base, "get_rope_index", places))
        yield


def coarser_tiles(tiles: torch.Tensor, factor: int) -> torch.Tensor:
    """Tiles [tiles, 3, H, W] with what is left of each at a `factor`-th of its pixels: the control of pooled tokens."""
    if factor == 1:
        return tiles
    less = [max(1, round(side / factor**0.5)) for side in tiles.shape[-2:]]
    shrunk = interpolate(tiles.float(), size=less, mode="area")
    return interpolate(shrunk, size=tiles.shape[-2:], mode="bicubic").to(tiles.dtype)


def num_pooled(number: int, factor: int) -> int:
    """The number of tokens left of `number`."""
    return -(-number // factor)


def pool(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Means [ceil(N / factor), D] of neighbours among features [N, D]; the last one may be of fewer."""
    return torch.stack([part.mean(0) for part in features.split(factor)])


def _pooling(stock: Any, factor: int) -> Any:
    @wraps(stock)  # `generate` reads its parameters
    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        output = stock(*args, **kwargs)
        output.pooler_output = [pool(features, factor) for features in output.pooler_output]
        if deep := getattr(output, "deepstack_features", None):
            output.deepstack_features = [[pool(features, factor) for features in level] for level in deep]
        return output

    get_image_features.token_pooling = factor  # type: ignore[attr-defined]
    return get_image_features


def _of_pooled(stock: Any, config: Any, factor: int) -> Any:
    def get_rope_index(
        input_ids: torch.Tensor,
        *,
        image_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transformers' method of the same name, asked row by row about the conversation with all of its tokens."""
        grids = iter(() if image_grid_thw is None else image_grid_thw)
        shown = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = torch.ones(3, *input_ids.shape, dtype=input_ids.dtype, device=input_ids.device)
        deltas = []
        for row, (ids, mask) in enumerate(zip(input_ids, shown.bool(), strict=True)):
            whole, kept, images = _unpooled(ids[mask].tolist(), grids, config, factor)
            tokens = torch.tensor([whole], device=input_ids.device)
            grid = torch.stack(images) if images else None
            kinds = (tokens == config.image_token_id).long()
            of_whole, delta = stock(tokens, mm_token_type_ids=kinds, image_grid_thw=grid)
            positions[:, row, mask] = of_whole[:, 0, kept]
            deltas.append(delta.flatten() + len(whole) - len(kept))
        return positions, torch.stack(deltas)

    return get_rope_index


def _unpooled(
    ids: Sequence[int], grids: Iterator[torch.Tensor], config: Any, factor: int
) -> tuple[list[int], list[int], list[torch.Tensor]]:
    """The tokens as they were, where in them those stand that are left, and the grids of the images among them."""
    whole: list[int] = []
    kept: list[int] = []
    images: list[torch.Tensor] = []
    for is_image, run in groupby(ids, lambda token: token == config.image_token_id):
        left = list(run)
        if not is_image:
            kept += range(len(whole), len(whole) + len(left))
            whole += left
            continue
        images.append(next(grids))
        number = int(images[-1].prod()) // config.vision_config.spatial_merge_size**2
        if num_pooled(number, factor) != len(left):
            raise ValueError(f"{len(left)} placeholders for an image of {number} tokens, {factor} of which become one")
        ends = (min(start + factor, number) for start in range(0, number, factor))
        kept += [len(whole) + (start + end - 1) // 2 for start, end in zip(range(0, number, factor), ends, strict=True)]
        whole += [config.image_token_id] * number
    return whole, kept, images
