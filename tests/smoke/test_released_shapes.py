"""Qwen2.5-VL and Qwen3-VL with the released patch, merge and pixel settings on a 4K image, narrow enough for a laptop.

One SFT step and one GRPO step each: what breaks at real image sizes breaks here.
"""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
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

from environments.play import Limits, Reply
from environments.settings import EpisodeArguments
from environments.traces import read_traces
from fovea.attention import batch_vision_attention
from fovea.boxes import Box, Frame
from fovea.models import Model, freeze_vision, load_processor, pixel_limits
from fovea.tasks import Target, Task
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from sft.collator import TraceCollator

pytestmark = pytest.mark.slow
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
ROPE = {"rope_type": "default", "rope_theta": 1e6}


def build(family: str) -> Model:
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
        return Model(batch_vision_attention(network), processor, family)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"patch_size": 16, "deepstack_visual_indexes": [0]}
    text |= {"head_dim": 32, "rope_parameters": ROPE | {"mrope_section": [4, 6, 6], "mrope_interleaved": True}}
    network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    size = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    images = Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=size)
    video = transformers.Qwen3VLVideoProcessor()
    processor = Qwen3VLProcessor(images, tokenizer, video, chat_template=qwen3_vl_chat_template)
    return Model(batch_vision_attention(network), processor, family)


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def model(request) -> Model:
    torch.set_num_threads(2)
    built = build(request.param)
    freeze_vision(built.network)
    return built


@pytest.fixture(scope="module")
def task() -> Task:
    pixels = np.random.default_rng(0).integers(0, 255, size=(54, 96, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((3840, 2160))
    metadata = {"labels": ["it"], "readings": ["7"]}
    return Task("4k", (image,), "Which?", "7", boxes=(Target(Box(0.1, 0.1, 0.2, 0.2, Frame.UNIT)),), metadata=metadata)


def test_one_sft_step_on_a_4k_image(model, task, tmp_path):
    from environments.play import play
    from environments.policies import OraclePolicy
    from environments.traces import write_traces

    factory = EpisodeArguments().environment_factory(model)
    oracle = OraclePolicy(model.frame)
    write_traces(play(oracle, [task], environment_factory=factory, limits=Limits()), tmp_path)
    batch = TraceCollator(model.processor, factory(), pixel_limits(model.processor))(list(read_traces(tmp_path)))
    assert batch["input_ids"].shape[1] > 8000
    loss = model.network(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None for name, p in model.network.named_parameters() if "visual" in name)


def test_one_grpo_step_on_a_4k_image(model, task, tmp_path, monkeypatch):
    box = [384, 216, 768, 432] if model.frame is Frame.INPUT else [100, 100, 200, 200]
    call = f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'
    args = GRPOArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_steps=1, bf16=False,
        gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
    )  # fmt: skip
    trainer = ZoomGRPOTrainer(
        model.network,
        [Reward("tokens", RewardKind.EPISODE, lambda task, episode: float(episode.num_tokens))],
        args,
        train_tasks=[task],
        environment_factory=EpisodeArguments(crop_max_pixels=512 * 512).environment_factory(model),
        limits=Limits(2, 100, 2000),
        processing_class=model.processor,
    )

    class Lines:
        def reply(self, conversations, *, max_tokens):
            texts = [
                call if len(c.messages) == 2 else "<answer>7</answer>" * (1 + i) for i, c in enumerate(conversations)
            ]
            end = trainer.renderer.tokenizer.eos_token_id
            return [Reply(text, (*trainer.renderer.tokenizer(text).input_ids, end)) for text in texts]

    monkeypatch.setattr("rl.trainer.TransformersPolicy", lambda *args, **kwargs: Lines())
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["zooms/mean"] == 1.0 and np.isfinite(log["loss"]) and log["grad_norm"] > 0
