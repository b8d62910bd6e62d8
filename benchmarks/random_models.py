"""Random Qwen-VL models, narrow enough for a laptop."""

import torch
import transformers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from trl.chat_template_utils import qwen3_vl_chat_template

from fovea.attention import batch_vision_attention
from fovea.features import remember_image_features
from fovea.models import Model, load_processor

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ROPE = {"rope_type": "default", "rope_theta": 1e6}


def random_model(family: str) -> Model:
    """A model of `family` with random weights, two layers, and the released patch, merge and pixel settings."""
    tokenizer = load_processor("tiny").tokenizer
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{end}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")}
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 32768,
    }
    text["pad_token_id"] = tokenizer.pad_token_id
    torch.manual_seed(0)
    if family == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
        vision |= {"patch_size": 14, "fullatt_block_indexes": [1]}
        text["rope_parameters"] = ROPE | {"mrope_section": [4, 6, 6]}
        network = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        size = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
        images = Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=size)
        video = transformers.Qwen2VLVideoProcessor()
        processor = Qwen2_5_VLProcessor(images, tokenizer, video, chat_template=qwen3_vl_chat_template)
        return _ready(network, processor, family)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"patch_size": 16, "deepstack_visual_indexes": [0]}
    text |= {"head_dim": 32, "rope_parameters": ROPE | {"mrope_section": [4, 6, 6], "mrope_interleaved": True}}
    network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    size = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    images = Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=size)
    video = transformers.Qwen3VLVideoProcessor()
    processor = Qwen3VLProcessor(images, tokenizer, video, chat_template=qwen3_vl_chat_template)
    return _ready(network, processor, family)


def _ready(network, processor, family: str) -> Model:
    remember_image_features(network, max_bytes=2**28)
    return Model(batch_vision_attention(network), processor, family)
