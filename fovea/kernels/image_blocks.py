"""Intra-image attention: in chosen layers an image's tokens attend, causally, to tokens of the same image alone.

The mask of MIMIC (arXiv 2601.07812, section 5.2). Text attends to all that precedes it, as ever. What an image's tokens
find is then the same whatever images stand before it, and attention costs N_t^2 + N_t N_v + N_v^2 / M, for N_t tokens
of text and N_v of M images, in place of (N_t + N_v)^2. Nothing of that size is kept (`fovea.kernels.masked_layouts`).

Whether a conversation is masked is decided once, by what stands before the model's first turn: with one image there,
neither it nor the crops of later turns are. `block_images` writes the layers into a network's configuration,
`save_pretrained` keeps them, and `fovea.models.loading.load_model` reads them. The mask is the same in every forward:
Transformers' own (padded, or with its cache), packed rows (`fovea.kernels.packing`) and kept turns
(`environments/policies/decoding.py`).

Tokens of videos count as text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from fovea.kernels.layouts import attends_to_all, install, without_adapters
from fovea.kernels.masked_layouts import OUTSIDE, MaskedBatch, number_images
from fovea.kernels.token_pooling import num_pooled

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
"""Model families whose every forward has been compared with a dense mask, by tests."""
KEY = "intra_image_attention"
"""The key of the mask in a model's configuration."""
TURN = "<|im_start|>assistant"
"""The text that ends the first message to the model, in the templates of these families."""


@dataclass(frozen=True)
class ImageBlocks:
    """The masked layers, and the token ids that mark images."""

    layers: frozenset[int]
    turn_ids: tuple[int, ...]
    """The tokens of `TURN`."""
    image_token_id: int

    def images_of(self, ids: Sequence[int]) -> list[int]:
        """For each token of a conversation, read from its start, the image whose tokens alone it sees, or `OUTSIDE`."""
        numbers = number_images(ids, self.image_token_id)
        return numbers if self.masks(ids, numbers) else [OUTSIDE] * len(ids)

    def masks(self, ids: Sequence[int], numbers: Sequence[int] | None = None) -> bool:
        """Returns True if these tokens have several images before the model's first turn (`numbers` by image)."""
        numbers = number_images(ids, self.image_token_id) if numbers is None else numbers
        return max(numbers[: self._first_turn(ids)], default=OUTSIDE) > 0

    def has_turn(self, ids: Sequence[int]) -> bool:
        """Returns True if these tokens reach the model's first turn."""
        return self._first_turn(ids) < len(ids)

    def _first_turn(self, ids: Sequence[int]) -> int:
        first, width = self.turn_ids[0], len(self.turn_ids)
        at = -1
        while True:
            try:
                at = ids.index(first, at + 1)
            except ValueError:
                return len(ids)
            if tuple(ids[at : at + width]) == self.turn_ids:
                return at


def block_images(network: Any, tokenizer: Any, layers: Collection[int]) -> None:
    """Masks these layers of the language tower, numbered from 0, from now on and wherever the network is loaded again.

    Raises:
        ValueError: for another family, layers that it does not have, or a tokenizer without its chat tokens.
    """
    config = without_adapters(network).config
    number = config.get_text_config().num_hidden_layers
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"intra-image attention does not exist for {config.model_type}: use one of {', '.join(FAMILIES)}"
        )
    if not layers or not set(layers) <= set(range(number)):
        raise ValueError(f"intra-image layers {sorted(layers)}: the model's are 0 to {number - 1}, name one or more")
    turn_ids = tokenizer(TURN, add_special_tokens=False).input_ids
    if tokenizer.decode(turn_ids) != TURN:
        raise ValueError(f"this tokenizer does not write {TURN!r}, by which a conversation's first message is told")
    setattr(config, KEY, {"layers": sorted(layers), "turn_ids": list(turn_ids)})
    apply_image_blocks(network)


def apply_image_blocks(network: Any) -> None:
    """Puts into effect what the network's configuration says of intra-image attention, if anything.

    Raises:
        ValueError: for an attention implementation that cannot be told what to attend to.
    """
    base = without_adapters(network)
    blocks = image_blocks(base)
    if blocks is None:
        return
    text = base.config.get_text_config()
    if not attends_to_all(base):
        raise ValueError("intra-image attention does not go with sliding windows or attention_dropout: leave them out")
    if (text._attn_implementation or "sdpa") == "flex_attention" or not install(base):
        raise ValueError(
            f"intra-image attention does not go with attn_implementation {text._attn_implementation!r}: "
            "use sdpa or flash"
        )
    if not getattr(base.base_model, "_blocks_images", False):
        base.base_model._blocks_images = True
        base.base_model.register_forward_pre_hook(_give_layout, with_kwargs=True)


def inherit_image_blocks(network: Any, other: Any) -> None:
    """Masks `network` as `other` is masked, for a reference model that is loaded again from the start of a training."""
    if (spec := getattr(without_adapters(other).config, KEY, None)) is not None:
        setattr(without_adapters(network).config, KEY, spec)
        apply_image_blocks(network)


def image_blocks(network: Any) -> ImageBlocks | None:
    """The intra-image mask in a network's configuration; None without one."""
    config = without_adapters(network).config
    if (spec := getattr(config, KEY, None)) is None:
        return None
    return ImageBlocks(frozenset(spec["layers"]), tuple(spec["turn_ids"]), config.image_token_id)


def _give_layout(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Before each forward of Transformers' own: the layout of its batch, if one of its rows is masked.

    Raises:
        ValueError: for a forward whose images cannot be told.
    """
    blocks = image_blocks(model)
    if "layout" in kwargs or blocks is None:
        return None
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    cache: Any = kwargs.get("past_key_values")
    if ids is None and args:
        ids = args[0]
    if ids is None or isinstance(mask, dict) or (mask is not None and mask.ndim != 2) or "cu_seq_lens_q" in kwargs:
        raise ValueError(
            "intra-image attention is told from input_ids and an attention_mask [rows, tokens]: this forward brings "
            "embeddings, a finished mask, or several sequences in a row"
        )
    num_seen = 0 if cache is None else int(cache.get_seq_length())
    if num_seen and ids.shape[1] == 1:
        return None
    shown = torch.ones_like(ids) if mask is None else mask[:, num_seen : num_seen + ids.shape[1]]
    rows = [row[keep.bool()].tolist() for row, keep in zip(ids, shown, strict=True)]
    lengths = _lengths_side_by_side(model, kwargs)
    images = [number_images(row, blocks.image_token_id, lengths) for row in rows]
    if num_seen:
        masked, begun = getattr(cache, _DECIDED, (None, False))
        if not begun and any(number != OUTSIDE for row in images for number in row):
            raise ValueError(
                "images behind a cache whose conversations were not read up to the model's first turn: whether they "
                "are masked cannot be told. Prefill prompts whole (no prefill_chunk_size), into a cache of your own"
            )
    else:
        masked, begun = list(map(blocks.masks, rows, images)), all(map(blocks.has_turn, rows))
    if masked is None:
        return None
    if cache is not None:
        setattr(cache, _DECIDED, (masked, begun))
    images = [row if is_masked else [] for row, is_masked in zip(images, masked, strict=True)]
    if not any(number != OUTSIDE for row in images for number in row):
        return None
    return args, {**kwargs, "layout": MaskedBatch(blocks.layers, images, shown.bool(), num_seen)}


def _lengths_side_by_side(model: Any, kwargs: dict[str, Any]) -> Iterator[int] | None:
    """The tokens of each image of a forward, in a family whose template sets no token between them; None elsewhere."""
    if model.config.model_type != "llava_onevision":
        return None
    if encoded := (kwargs.get("mm_encoder_outputs") or {}).get("image"):  # `generate` encodes images by itself
        return map(len, encoded.pooler_output)
    if (sizes := kwargs.get("image_sizes")) is None:
        return None
    vision, pinpoints = model.config.vision_config, model.config.image_grid_pinpoints
    num_images = kwargs.get("batch_num_images")
    cut = [True] * len(sizes) if num_images is None else [number == 1 for number in num_images for _ in range(number)]
    tiles = [
        image_size_to_num_patches(size, pinpoints, vision.image_size) if is_cut else 1
        for size, is_cut in zip(sizes, cut, strict=True)
    ]
    nothing = [torch.zeros(number, (vision.image_size // vision.patch_size) ** 2, 1) for number in tiles]
    ratio = kwargs.get("vision_aspect_ratio") or model.config.vision_aspect_ratio
    _, lengths = model.pack_image_features(nothing, sizes, torch.zeros(1), ratio)
    factor = getattr(model.get_image_features, "token_pooling", 1)
    return (num_pooled(length, factor) for length in lengths.tolist())


_DECIDED = "_masked_rows"
"""The attribute of a cache that says which rows are masked, and whether all of them were read up to a first turn."""
