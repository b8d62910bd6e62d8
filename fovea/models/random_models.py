"""Qwen-VL models with random weights, from narrow enough for a laptop to the shapes that were released."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from trl.chat_template_utils import qwen3_vl_chat_template

from fovea.models.loading import Model, load_processor, quickened


@dataclass(frozen=True)
class Shape:
    """Widths and depths of a model; `head_width` is the language tower's; no `vocabulary` means the tiny one."""

    family: str
    width: int
    inner_width: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_width: int
    vision_width: int
    vision_inner_width: int
    vision_depth: int
    vision_heads: int
    special_layers: tuple[int, ...]
    """Of the vision tower: those with full attention in Qwen2.5-VL, those that deepstack reads in Qwen3-VL."""
    vocabulary: int | None = None
    is_tied: bool = False
    """Whether the output head is the embedding."""
    max_positions: int = 32_768


NARROW = (64, 64, 2, 2, 1, 32, 32, 32, 2, 2)
SMALL = (256, 768, 6, 4, 2, 64, 128, 256, 4, 4)
# fmt: off
SHAPES = {
    "qwen2_5_vl-narrow": Shape("qwen2_5_vl", *NARROW, (1,)),
    "qwen3_vl-narrow": Shape("qwen3_vl", *NARROW, (0,)),
    "qwen2_5_vl-small": Shape("qwen2_5_vl", *SMALL, (3,)),
    "qwen3_vl-small": Shape("qwen3_vl", *SMALL, (1, 2)),
    "qwen2_5_vl-3b": Shape(
        "qwen2_5_vl", 2048, 11008, 36, 16, 2, 128, 1280, 3420, 32, 16, (7, 15, 23, 31),
        vocabulary=151_936, is_tied=True, max_positions=128_000,
    ),
    "qwen2_5_vl-7b": Shape(
        "qwen2_5_vl", 3584, 18944, 28, 28, 4, 128, 1280, 3420, 32, 16, (7, 15, 23, 31),
        vocabulary=152_064, max_positions=128_000,
    ),
    "qwen3_vl-4b": Shape(
        "qwen3_vl", 2560, 9728, 36, 32, 8, 128, 1024, 4096, 24, 16, (5, 11, 17),
        vocabulary=151_936, is_tied=True, max_positions=262_144,
    ),
    "qwen3_vl-8b": Shape(
        "qwen3_vl", 4096, 12288, 36, 32, 8, 128, 1152, 4304, 27, 16, (8, 16, 24),
        vocabulary=151_936, max_positions=262_144,
    ),
}
# fmt: on
"""By name: the family, then the size."""
RELEASED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl-3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl-7b",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl-4b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl-8b",
}
"""Hub ids whose shapes are known here."""


def random_model(
    name: str,
    *,
    stock: bool = False,
    num_layers: int | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **settings: Any,
) -> Model:
    """The model of a name in `SHAPES`, with the released patch, merge and pixel settings; the same weights each time.

    A `stock` one is not `quickened`; `num_layers` cuts the language tower. Without a `tokenizer` it has the
    tiny one's. `settings` go to the configuration.
    """
    shape = SHAPES[name]
    if num_layers is not None:
        shape = replace(shape, num_layers=num_layers)
    tokenizer = tokenizer or load_processor("tiny").tokenizer
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    settings = {"tie_word_embeddings": shape.is_tied, **settings}
    ids |= {f"vision_{end}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")}
    eighth = shape.head_width // 16
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth]}
    text = {
        "hidden_size": shape.width,
        "intermediate_size": shape.inner_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_heads,
        "vocab_size": shape.vocabulary or len(tokenizer),
        "max_position_embeddings": shape.max_positions,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_inner_width,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
    }
    config: Any
    network_class: Any
    if shape.family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "fullatt_block_indexes": list(shape.special_layers)}
        text["rope_parameters"] = rope
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids, **settings)
        network_class = Qwen2_5_VLForConditionalGeneration
        images = Qwen2VLImageProcessor(
            patch_size=14, merge_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
        )
        processor = Qwen2_5_VLProcessor(
            images, tokenizer, Qwen2VLVideoProcessor(), chat_template=qwen3_vl_chat_template
        )
    else:
        vision |= {"patch_size": 16, "deepstack_visual_indexes": list(shape.special_layers)}
        text |= {"head_dim": shape.head_width, "rope_parameters": rope | {"mrope_interleaved": True}}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **ids, **settings)
        network_class = Qwen3VLForConditionalGeneration
        images = Qwen2VLImageProcessor(
            patch_size=16, merge_size=2, size={"shortest_edge": 65_536, "longest_edge": 16_777_216}
        )
        processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=qwen3_vl_chat_template)
    torch.manual_seed(0)
    config.dtype = dtype
    with torch.device(device):
        network = network_class._from_config(config, dtype=dtype)
    return Model(network if stock else quickened(network), processor, shape.family)
