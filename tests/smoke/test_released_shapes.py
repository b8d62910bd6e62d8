"""Qwen2.5-VL and Qwen3-VL with the released patch, merge and pixel settings on a 4K image, narrow enough for a laptop.

One SFT step and one GRPO step each: what breaks at real image sizes breaks here.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.rendering import Renderer
from environments.seats import Limits, Reply
from environments.trace_files import read_traces
from fovea.boxes import Box, Frame
from fovea.models.loading import Model, freeze_vision
from fovea.models.processors import pixel_limits
from fovea.models.random_models import random_model
from fovea.tasks import Target, Task
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from sft.collator import TraceCollator
from tests.training import ON_CPU

pytestmark = pytest.mark.slow


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def model(request) -> Model:
    torch.set_num_threads(2)
    built = random_model(f"{request.param}-narrow")
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
    from environments.policies.oracle import OraclePolicy
    from environments.traces import write_traces

    factory = environment_factory(EpisodeArguments(), model)
    oracle = OraclePolicy(model.frame)
    write_traces(play(oracle, [task], environment_factory=factory, limits=Limits()), tmp_path)
    batch = TraceCollator(Renderer(model.processor), factory(), pixel_limits(model.processor))(
        list(read_traces(tmp_path))
    )
    assert batch["input_ids"].shape[1] > 8000
    loss = model.network(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None for name, p in model.network.named_parameters() if "visual" in name)


def test_one_grpo_step_on_a_4k_image(model, task, tmp_path, monkeypatch):
    box = [384, 216, 768, 432] if model.frame is Frame.INPUT else [100, 100, 200, 200]
    call = f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'
    args = GRPOArguments(
        **ON_CPU, output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_steps=1
    )
    trainer = ZoomGRPOTrainer(
        model.network,
        [Reward("tokens", RewardKind.EPISODE, lambda task, episode: float(episode.num_tokens))],
        args,
        train_tasks=[task],
        environment_factory=environment_factory(EpisodeArguments(crop_max_pixels=512 * 512), model),
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

    monkeypatch.setattr("rl.playing.TransformersPolicy", lambda *args, **kwargs: Lines())
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["zooms/mean"] == 1.0 and np.isfinite(log["loss"]) and log["grad_norm"] > 0
