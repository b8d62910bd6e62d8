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

from fovea.models.loading import Model, quickened
from fovea.models.processors import load_processor


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Width and depth of one tower; `inner_width` is its MLP's."""

    width: int
    inner_width: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True, kw_only=True)
class Language(Tower):
    """The language tower; no `vocabulary` means the tiny model's."""

    num_key_heads: int
    head_width: int
    vocabulary: int | None = None
    is_tied: bool = False
    """True if the output head shares the weights of the embedding."""
    max_positions: int = 32_768


@dataclass(frozen=True, kw_only=True)
class Vision(Tower):
    """The vision tower."""

    special_layers: tuple[int, ...]
    """Those with full attention in Qwen2.5-VL, those that deepstack reads in Qwen3-VL."""


@dataclass(frozen=True)
class Shape:
    family: str
    language: Language
    vision: Vision


NARROW = (
    Language(width=64, inner_width=64, num_layers=2, num_heads=2, num_key_heads=1, head_width=32),
    Vision(width=32, inner_width=32, num_layers=2, num_heads=2, special_layers=(1,)),
)
SMALL = (
    Language(width=256, inner_width=768, num_layers=6, num_heads=4, num_key_heads=2, head_width=64),
    Vision(width=128, inner_width=256, num_layers=4, num_heads=4, special_layers=(3,)),
)
QWEN2_5_VISION = Vision(width=1280, inner_width=3420, num_layers=32, num_heads=16, special_layers=(7, 15, 23, 31))
SHAPES = {
    "qwen2_5_vl-narrow": Shape("qwen2_5_vl", *NARROW),
    "qwen3_vl-narrow": Shape("qwen3_vl", NARROW[0], replace(NARROW[1], special_layers=(0,))),
    "qwen2_5_vl-small": Shape("qwen2_5_vl", *SMALL),
    "qwen3_vl-small": Shape("qwen3_vl", SMALL[0], replace(SMALL[1], special_layers=(1, 2))),
    "qwen2_5_vl-3b": Shape(
        "qwen2_5_vl",
        Language(width=2048, inner_width=11008, num_layers=36, num_heads=16, num_key_heads=2, head_width=128,
                 vocabulary=151_936, is_tied=True, max_positions=128_000),
        QWEN2_5_VISION,
    ),
    "qwen2_5_vl-7b": Shape(
        "qwen2_5_vl",
        Language(width=3584, inner_width=18944, num_layers=28, num_heads=28, num_key_heads=4, head_width=128,
                 vocabulary=152_064, max_positions=128_000),
        QWEN2_5_VISION,
    ),
    "qwen3_vl-4b": Shape(
        "qwen3_vl",
        Language(width=2560, inner_width=9728, num_layers=36, num_heads=32, num_key_heads=8, head_width=128,
                 vocabulary=151_936, is_tied=True, max_positions=262_144),
        Vision(width=1024, inner_width=4096, num_layers=24, num_heads=16, special_layers=(5, 11, 17)),
    ),
    "qwen3_vl-8b": Shape(
        "qwen3_vl",
        Language(width=4096, inner_width=12288, num_layers=36, num_heads=32, num_key_heads=8, head_width=128,
                 vocabulary=151_936, max_positions=262_144),
        Vision(width=1152, inner_width=4304, num_layers=27, num_heads=16, special_layers=(8, 16, 24)),
    ),
}  # fmt: skip
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
        shape = replace(shape, language=replace(shape.language, num_layers=num_layers))
    tokenizer = tokenizer or load_processor("tiny").tokenizer
    make = _qwen2_5_vl if shape.family == "qwen2_5_vl" else _qwen3_vl
    settings = {"tie_word_embeddings": shape.language.is_tied, **special_ids(tokenizer), **settings}
    config, network_class, processor = make(shape, tokenizer, settings)
    torch.manual_seed(0)
    config.dtype = dtype
    with torch.device(device):
        network = network_class._from_config(config, dtype=dtype)
    return Model(network if stock else quickened(network), processor, shape.family)


def _qwen2_5_vl(shape: Shape, tokenizer: Any, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Configuration, class and processor of a Qwen2.5-VL."""
    text = _text_config(shape.language, tokenizer, {})
    special = list(shape.vision.special_layers)
    vision = _vision_config(shape) | {"patch_size": 14, "fullatt_block_indexes": special}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **settings)
    images = _image_processor(patch_size=14, min_pixels=56 * 56, max_pixels=12_845_056)
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=qwen3_vl_chat_template)
    return config, Qwen2_5_VLForConditionalGeneration, processor


def _qwen3_vl(shape: Shape, tokenizer: Any, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Configuration, class and processor of a Qwen3-VL."""
    text = _text_config(shape.language, tokenizer, {"mrope_interleaved": True})
    text["head_dim"] = shape.language.head_width
    special = list(shape.vision.special_layers)
    vision = _vision_config(shape) | {"patch_size": 16, "deepstack_visual_indexes": special}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **settings)
    images = _image_processor(patch_size=16, min_pixels=65_536, max_pixels=16_777_216)
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=qwen3_vl_chat_template)
    return config, Qwen3VLForConditionalGeneration, processor


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """The ids of a Qwen-VL's image, video and vision tokens, by the names that its configuration gives them."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _text_config(language: Language, tokenizer: Any, rope: dict[str, Any]) -> dict[str, Any]:
    eighth = language.head_width // 16
    sections = [2 * eighth, 3 * eighth, 3 * eighth]
    return {
        "hidden_size": language.width,
        "intermediate_size": language.inner_width,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_key_heads,
        "vocab_size": language.vocabulary or len(tokenizer),
        "max_position_embeddings": language.max_positions,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections, **rope},
    }


def _vision_config(shape: Shape) -> dict[str, Any]:
    vision = shape.vision
    return {
        "depth": vision.num_layers,
        "hidden_size": vision.width,
        "intermediate_size": vision.inner_width,
        "num_heads": vision.num_heads,
        "out_hidden_size": shape.language.width,
    }


def _image_processor(*, patch_size: int, min_pixels: int, max_pixels: int) -> Qwen2VLImageProcessor:
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return Qwen2VLImageProcessor(patch_size=patch_size, merge_size=2, size=size)
