"""Qwen2-VL and LLaVA-OneVision with random weights, too narrow to know anything."""

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)

from fovea.models.processors import load_processor

TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32768,
}  # fmt: skip


def qwen2_vl():
    tokenizer = load_processor("tiny").tokenizer
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{end}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")}
    text = TEXT | {
        "vocab_size": len(tokenizer), "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]},
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
    network = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    images = Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 56 * 56, "longest_edge": 168 * 168})
    template = load_processor("tiny").chat_template
    return network, Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)


def llava_onevision():
    backend = load_processor("tiny").tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    text = Qwen2Config(**TEXT, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id,
                       pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56,
        vision_use_head=False,
    )  # fmt: skip
    pinpoints = [[56, 56], [56, 112], [112, 56], [112, 112]]
    ids = dict(zip(("image_token_index", "video_token_index"),
                   tokenizer.convert_tokens_to_ids(["<image>", "<video>"]), strict=True))  # fmt: skip
    config = LlavaOnevisionConfig(vision_config=vision, text_config=text, image_grid_pinpoints=pinpoints, **ids)
    images = LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        images, tokenizer, LlavaOnevisionVideoProcessor(), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template="{{ messages }}",
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor
