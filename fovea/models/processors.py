"""Processors of models: chat template, padding, and the pixel limits within which images stay as they are."""

from __future__ import annotations

from typing import Any

from fovea.images import MAX_IMAGE_PIXELS, PixelLimits
from fovea.models.names import resolve_path


def load_processor(name: str, *, min_pixels: int | None = None, max_pixels: int | None = None, **options: Any) -> Any:
    """The processor of a model: left padding, a chat template with tools and assistant markers, pixel limits set.

    Raises:
        ValueError: for a processor without a chat template that TRL can mark assistant tokens in.
    """
    from transformers import AutoProcessor
    from trl.chat_template_utils import qwen3_vl_chat_template

    processor = AutoProcessor.from_pretrained(resolve_path(name), **options)
    processor.tokenizer.padding_side = "left"
    if type(processor).__name__ in ("Qwen2_5_VLProcessor", "Qwen2VLProcessor", "Qwen3VLProcessor"):
        processor.chat_template = qwen3_vl_chat_template
        processor.tokenizer.chat_template = qwen3_vl_chat_template
    if type(processor).__name__ == "LlavaOnevisionProcessor":
        placeholder = "<|vision_start|><|image_pad|><|vision_end|>"
        processor.chat_template = qwen3_vl_chat_template.replace(placeholder, processor.image_token)
    if not processor.chat_template:
        raise ValueError(f"{name} has no chat template: save one with its processor")
    return limited(processor, min_pixels, max_pixels)


def limited(processor: Any, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The processor itself, with these limits where they are given.

    Raises:
        ValueError: for limits of a processor that has none.
    """
    size = processor.image_processor.size
    if "longest_edge" not in size:
        if (min_pixels, max_pixels) != (None, None):
            raise ValueError(f"{type(processor).__name__} has no pixel limits: leave min_pixels and max_pixels out")
        return processor
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    processor.image_processor.size = size
    return processor


def pixel_limits(processor: Any) -> PixelLimits:
    """The limits within which a Qwen-VL processor leaves images as they are, if they lie on its patch grid.

    LLaVA-OneVision tiles an image of any size by itself: there is nothing to be fitted before.
    """
    images = processor.image_processor
    if "longest_edge" not in images.size:
        return PixelLimits(1, MAX_IMAGE_PIXELS, 1)
    return PixelLimits(images.size["shortest_edge"], images.size["longest_edge"], images.patch_size * images.merge_size)
