"""The shared part of a group is computed once, and neither a log-probability nor a gradient changes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.seats import Limits, Reply
from fovea.config import ConfigError
from fovea.kernels.image_blocks import block_images
from fovea.kernels.image_features import content_key
from fovea.kernels.packing import group_rows, num_common, unpad
from fovea.models.loading import freeze_vision
from fovea.models.masks import check_same_mask
from fovea.models.processors import limited
from fovea.models.random_models import random_model
from fovea.runs.directory import RunDirectory
from fovea.tasks import Task
from fovea.training import train
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from tests.training import ON_CPU

LORA = {"r": 4, "lora_dropout": 0.0, "init_lora_weights": False}


ZOOMS = EpisodeArguments(crop_min_pixels=56 * 56, crop_max_pixels=112 * 112)


def some_task(seed: int, question: str, num_images: int = 1) -> Task:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(num_images, 224, 224, 3), dtype=np.uint8)
    return Task(f"t{seed}", tuple(map(Image.fromarray, pixels)), question, "7")


class Lines:
    """Rollouts of every length: some zoom once or twice, some answer at once."""

    def __init__(self, renderer):
        self.renderer = renderer

    def reply(self, conversations, *, max_tokens):
        replies = []
        for row, conversation in enumerate(conversations):
            turn = sum(message["role"] == "assistant" for message in conversation.messages)
            box = f"[{10 * row}, 0, {100 + 10 * row}, 120]"
            text = f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'
            if turn >= (len(conversation.messages[1]["content"]) + row) % 3:
                text = "<answer>" + "7" * (row + 1) + "</answer>"
            ids = self.renderer.tokenizer(text, split_special_tokens=True).input_ids
            replies.append(Reply(text, (*ids, self.renderer.tokenizer.eos_token_id)))
        return replies


def make_trainer(
    family: str, tmp_path, monkeypatch, *, lora: bool = False, train_vision: bool = False, episodes=ZOOMS,
    num_images: int = 1, masked=(), **options,
) -> ZoomGRPOTrainer:  # fmt: skip
    from peft import LoraConfig

    model = random_model(f"{family}-narrow")
    limited(model.processor, 56 * 56, None)
    if not train_vision:
        freeze_vision(model.network)
    model.network.save_pretrained(tmp_path / "start")  # where TRL takes the reference of a full fine-tuning from
    model.network.config._name_or_path = str(tmp_path / "start")
    if masked:
        block_images(model.network, model.processor.tokenizer, masked)
    settings = ON_CPU | dict(output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_steps=1)
    trainer = ZoomGRPOTrainer(
        model.network,
        [Reward("tokens", RewardKind.EPISODE, lambda task, episode: float(episode.num_tokens % 5))],
        GRPOArguments(**(settings | options)),
        # The second question has the first one's length, and its image the first one's size.
        train_tasks=[some_task(seed, "What is it?", num_images) for seed in (0, 1)],
        environment_factory=environment_factory(episodes, model),
        limits=Limits(4, 100, 2000),
        processing_class=model.processor,
        peft_config=LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", **LORA) if lora else None,
    )
    monkeypatch.setattr("rl.playing.TransformersPolicy", lambda *args, **kwargs: Lines(trainer.renderer))
    return trainer


def loss_and_gradients(trainer, inputs, *, shared: bool):
    trainer.shares_prefix = shared
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, dict(inputs))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def rollouts(trainer):
    rows = [{"prompt": [{"role": "user", "content": ""}], "task_index": index} for index in (0, 1) for _ in range(4)]
    trainer.model.train()
    return trainer._generate_and_score_completions(rows)


def batch(inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    return (ids, mask, inputs["completion_ids"].shape[1]), {name: inputs[name] for name in names}


def pictures(images):
    return {name: images[name] for name in ("pixel_values", "image_grid_thw")}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": True},
        {"lora": True, "beta": 0.1},
        {"max_packed_tokens": 300},
        {"train_vision": True, "beta": 0.1},
        {"train_vision": True, "gradient_checkpointing": True, "max_packed_tokens": 300},
    ],
    ids=str,
)
def test_log_probabilities_and_gradients_equal_stock_trl(family, options, tmp_path, monkeypatch):
    trainer = make_trainer(family, tmp_path, monkeypatch, **options)
    inputs = rollouts(trainer)
    args, images = batch(inputs)
    found = []
    for shared in (False, True):
        trainer.shares_prefix = shared
        with torch.no_grad():
            found.append(
                trainer._get_per_token_logps_and_entropies(trainer.model, *args, compute_entropy=True, **images)
            )
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    (stock_loss, stock), (loss, ours) = (loss_and_gradients(trainer, inputs, shared=s) for s in (False, True))
    assert loss == pytest.approx(stock_loss, abs=1e-6) and stock.keys() == ours.keys() and stock
    difference = torch.cat([(stock[name] - ours[name]).flatten() for name in stock]).norm()
    assert difference < 1e-4 * torch.cat([gradient.flatten() for gradient in stock.values()]).norm()
    assert any("visual" in name for name in ours) == ("train_vision" in options)


class Focusing(Lines):
    """Rollouts that focus on two of the images, on others in each row, zoom into one of them, and answer."""

    def reply(self, conversations, *, max_tokens):
        replies = []
        for row, conversation in enumerate(conversations):
            turn = sum(message["role"] == "assistant" for message in conversation.messages)
            calls = [
                {"name": "focus_images_tool", "arguments": {"img_idxs": [row, 12 + row], "question": "?"}},
                {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 50, 60], "img_idx": 12 + row}},
            ]
            text = "<answer>" + "7" * (row + 1) + "</answer>"
            if turn < 2:
                text = f"<tool_call>{json.dumps(calls[turn])}</tool_call>"
            ids = self.renderer.tokenizer(text, split_special_tokens=True).input_ids
            replies.append(Reply(text, (*ids, self.renderer.tokenizer.eos_token_id)))
        return replies


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("masked", [(), (0,)], ids=["plain", "masked"])
def test_24_images_and_those_focused_on_share_their_prefix_exactly(family, masked, tmp_path, monkeypatch):
    episodes = EpisodeArguments(
        environment="focus", max_image_tokens=24 * 4, crop_min_pixels=56 * 56, crop_max_pixels=112 * 112
    )
    trainer = make_trainer(family, tmp_path, monkeypatch, episodes=episodes, num_images=24, masked=masked)
    monkeypatch.setattr("rl.playing.TransformersPolicy", lambda *args, **kwargs: Focusing(trainer.renderer))
    inputs = rollouts(trainer)
    assert inputs["num_images"] == [27] * 8
    tasks, policy = [task for task in trainer.tasks for _ in range(4)], Focusing(trainer.renderer)
    played = play(
        policy, tasks, environment_factory=trainer.make_environment, limits=trainer.limits, renderer=trainer.renderer
    )
    for episode, ids, mask in zip(played, inputs["completion_ids"], inputs["completion_mask"], strict=True):
        assert list(episode.record.completion_ids) == ids[mask.bool()].tolist()
    args, images = batch(inputs)
    found = []
    for shared in (False, True):
        trainer.shares_prefix = shared
        with torch.no_grad():
            found.append(trainer._get_per_token_logps_and_entropies(trainer.model, *args, **images)[0])
    assert torch.allclose(*found, atol=1e-5)
    (stock_loss, stock), (loss, ours) = (loss_and_gradients(trainer, inputs, shared=s) for s in (False, True))
    assert loss == pytest.approx(stock_loss, abs=1e-6)
    difference = torch.cat([(stock[name] - ours[name]).flatten() for name in stock]).norm()
    assert difference < 1e-4 * torch.cat([gradient.flatten() for gradient in stock.values()]).norm()


@pytest.mark.slow
def test_twenty_steps_on_replayed_rollouts_end_with_the_weights_of_stock_trl(tmp_path, monkeypatch):
    trainer = make_trainer("qwen2_5_vl", tmp_path, monkeypatch)
    inputs = rollouts(trainer)
    start = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    ends = []
    for shared in (False, True):
        trainer.model.load_state_dict(start)
        optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
        for _ in range(20):
            loss_and_gradients(trainer, inputs, shared=shared)
            optimizer.step()
        ends.append({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
    moved = [name for name in start if not torch.equal(start[name], ends[0][name])]
    assert len(moved) > 20
    for name in moved:
        assert (ends[0][name] - ends[1][name]).norm() < 1e-3 * (ends[0][name] - start[name]).norm() + 1e-6, name


@pytest.mark.parametrize(("num_images", "masked"), [(1, ()), (2, (1,))], ids=["plain", "masked"])
def test_the_reference_model_of_a_full_fine_tuning_shares_prefixes_and_masks_too(
    num_images, masked, tmp_path, monkeypatch
):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch, beta=0.1, num_images=num_images, masked=masked)
    inputs = rollouts(trainer)
    args, images = batch(inputs)
    trainer.shares_prefix = False
    with torch.no_grad():
        stock = trainer._get_per_token_logps_and_entropies(trainer.model, *args, **images)[0]
    assert trainer.ref_model.model.image_features is trainer.model.model.image_features
    assert torch.allclose(inputs["ref_per_token_logps"], stock, atol=1e-5)


def test_a_run_does_not_go_on_with_other_layers_masked(tmp_path, monkeypatch):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch, masked=(0,))
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(ConfigError, match="with no layer masked"):
        train(trainer, run, checkpoint=str(tmp_path / "start"), max_minutes=None)
    trainer.save_model(str(tmp_path / "masked"))
    check_same_mask(tmp_path / "masked", trainer.model)


def test_a_model_that_is_named_is_masked_as_its_configuration_says(tmp_path, monkeypatch):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch, masked=(0,))
    trainer.save_model(str(tmp_path / "masked"))
    trainer.processing_class.save_pretrained(tmp_path / "masked")
    args = GRPOArguments(**(ON_CPU | dict(output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4)))
    named = ZoomGRPOTrainer(
        str(tmp_path / "masked"), [Reward("no", RewardKind.EPISODE, lambda task, episode: 0.0)], args,
        train_tasks=[some_task(seed, "What?", 2) for seed in (0, 1)], environment_factory=trainer.make_environment,
    )  # fmt: skip
    assert len(named.model.base_model._forward_pre_hooks) == 1


def test_prompts_of_equal_tokens_but_other_pixels_are_not_shared(tmp_path, monkeypatch):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch)
    (ids, mask, width), images = batch(rollouts(trainer))
    rows = unpad(ids, mask, width, image_token_id=trainer.renderer.image_token_id, merge_size=2, **pictures(images))
    assert rows[0].prompt_ids == rows[4].prompt_ids
    assert group_rows(rows) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_images_without_placeholders_and_placeholders_without_images_are_refused(tmp_path, monkeypatch):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch)
    (ids, mask, width), images = batch(rollouts(trainer))
    options = dict(image_token_id=trainer.renderer.image_token_id, merge_size=2, **pictures(images))
    with pytest.raises(ValueError, match="images for which no row has placeholders"):
        unpad(ids[:-1], mask[:-1], width, **options)
    with pytest.raises(ValueError, match="placeholders are not those of its images"):
        unpad(torch.cat([ids, ids]), torch.cat([mask, mask]), width, **options)


def test_each_prompt_is_forwarded_once(tmp_path, monkeypatch):
    trainer = make_trainer("qwen3_vl", tmp_path, monkeypatch)
    inputs = rollouts(trainer)
    (ids, mask, width), images = batch(inputs)
    seen = []
    trainer.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, **images)
    rows = unpad(ids, mask, width, image_token_id=trainer.renderer.image_token_id, merge_size=2, **pictures(images))
    prompts = [rows[number].prompt_ids for number in (0, 4)]
    common = num_common(prompts, trainer.renderer.image_token_id)
    assert common > 200  # the system prompt and the tools
    shared = sum(len(prompt) - 1 for prompt in prompts) - common
    assert seen == [shared + int(inputs["completion_mask"].sum()) + len(ids)]


def test_each_distinct_image_is_preprocessed_once(tmp_path, monkeypatch):
    trainer, counted = make_trainer("qwen3_vl", tmp_path, monkeypatch), []
    processor = trainer.processing_class.image_processor
    stock = processor.preprocess
    monkeypatch.setattr(
        processor, "preprocess", lambda images, *a, **k: counted.append(len(images)) or stock(images, *a, **k)
    )
    inputs = rollouts(trainer)
    shown = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(-1).tolist())
    assert len(shown) > sum(counted) == len({content_key(patches) for patches in shown})


def test_micro_batches_keep_groups_whole(tmp_path, monkeypatch):
    """TRL shuffles single rollouts before it cuts a generation into micro-batches."""
    trainer = make_trainer(
        "qwen3_vl", tmp_path, monkeypatch, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    grouped = []
    original = trainer._compute_loss
    monkeypatch.setattr(
        trainer, "_compute_loss", lambda model, inputs: grouped.append(batch(inputs)) or original(model, inputs)
    )
    trainer.train()
    for (ids, mask, width), images in grouped:
        rows = unpad(ids, mask, width, image_token_id=trainer.renderer.image_token_id, merge_size=2, **pictures(images))
        assert group_rows(rows) == [[0, 1, 2, 3]]
    assert len(grouped) == 2


def test_a_budget_bounds_what_backward_keeps(tmp_path, monkeypatch):
    def kept(tokens):
        trainer, sizes = make_trainer("qwen3_vl", tmp_path, monkeypatch, max_packed_tokens=tokens), []
        inputs = rollouts(trainer)
        trainer.current_gradient_accumulation_steps = 1
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            trainer.compute_loss(trainer.model, inputs)
        return sum(sizes)

    assert kept(300) < kept(None) / 2


def test_pixels_wait_in_host_memory_until_they_are_packed(tmp_path, monkeypatch):
    """All of a generation's would fill the GPU; what the model is called with is on its device."""
    trainer = make_trainer("qwen2_5_vl", tmp_path, monkeypatch)
    monkeypatch.setattr(type(trainer.args), "device", torch.device("meta"))
    given = {"pixel_values": torch.ones(4, 2), "image_grid_thw": torch.ones(1, 3)}
    moved = trainer._prepare_input(given)
    assert moved["pixel_values"] is given["pixel_values"] and moved["image_grid_thw"].device.type == "meta"
    trainer.shares_prefix = False
    assert trainer._prepare_input(given)["pixel_values"].device.type == "meta"
