"""The trainer on the tiny model, and the faults of TRL's own tool loop that it does not share."""

import copy
import pickle

import pytest
import torch
from trl import GRPOConfig, ModelConfig

from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.decoding import Decoder
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Limits, Reply
from fovea.episodes import StopReason
from fovea.models.loading import LANGUAGE_LINEARS, load_model
from fovea.models.trainee import load_for_training
from rewards.registry import Reward, RewardError, RewardKind, load_reward
from rl.arguments import GRPOArguments
from rl.checks import check_groups
from rl.trainer import ZoomGRPOTrainer
from tests.training import ON_CPU

ZOOM = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 300, 300]}}'
CALL = f"<think>a</think>\n<tool_call>\n{ZOOM}\n</tool_call>"
BAD = '<think>a</think>\n<tool_call>\n{"name": "<|image_pad|>", "arguments": {}}\n</tool_call>'
ANSWER = "<think>a</think>\n<answer>7</answer>"


class Lines:
    """A policy that plays fixed lines: row by row its own."""

    def __init__(self, renderer, *rows):
        self.renderer, self.rows = renderer, rows
        self.row_of = {}

    def reply(self, conversations, *, max_tokens):
        replies = []
        for conversation in conversations:
            row = self.row_of.setdefault(id(conversation), len(self.row_of) % len(self.rows))
            lines = self.rows[row]
            text = lines[sum(m["role"] == "assistant" for m in conversation.messages) % len(lines)]
            ids = self.renderer.tokenizer(text, split_special_tokens=True).input_ids
            ids = (*ids, self.renderer.tokenizer.eos_token_id)
            replies.append(Reply(text, ids))
        return replies


def play_lines(trainer, monkeypatch, *rows):
    """Makes the trainer's rollouts follow fixed lines."""
    policy = Lines(trainer.renderer, *rows)
    monkeypatch.setattr("rl.playing.TransformersPolicy", lambda *args, **kwargs: policy)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_step_of_training_changes_the_language_tower(build, tiny):
    before = weights(tiny.network)
    trainer = build()
    trainer.train()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if "language_model" in name)
    assert "rewards/place/mean" in trainer.state.log_history[0]


@pytest.mark.parametrize(
    "rows",
    [
        ((BAD, ANSWER),),
        ((ANSWER,), (CALL, ANSWER)),
        ((CALL, CALL, CALL),),
        ((ANSWER,),),
        (("no action",), (CALL, BAD, ANSWER)),
    ],
    ids=["no crop in the first tool round (B1)", "uneven zooms", "over-turn", "no zoom at all", "faults (B7)"],
)
def test_any_mixture_of_rollouts_trains(build, monkeypatch, rows):
    trainer = build(limits=Limits(3, 200, 600))
    play_lines(trainer, monkeypatch, *rows)
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))


def test_no_picture_travels_between_processes(build, monkeypatch):
    """Each process opens its own; what is gathered is text and numbers."""
    sent = []
    trainer = build(limits=Limits(3, 200, 600), log_completions=True, log_multimodal=False)
    play_lines(trainer, monkeypatch, (CALL, ANSWER))
    for module in ("trl.trainer.grpo_trainer", "rl.trainer", "rl.playing"):
        monkeypatch.setattr(f"{module}.gather_object", lambda things: sent.append(pickle.dumps(things)) or things)
    trainer.train()
    assert sent and not any(b"PIL" in message for message in sent)


def test_unfinished_episodes_leave_the_loss_but_not_attention(build, monkeypatch):
    """TRL's own switch zeroes attention over image tokens and desyncs M-RoPE (fault B2)."""
    trainer = build(limits=Limits(2, 200, 600), mask_truncated_completions=True, mask_turn_limit=True)
    play_lines(trainer, monkeypatch, (CALL, CALL), (CALL, ANSWER))
    seen = {}
    original = trainer._generate_and_score_completions
    monkeypatch.setattr(
        trainer, "_generate_and_score_completions", lambda inputs: seen.setdefault("out", original(inputs))
    )
    trainer.train()
    out = seen["out"]
    assert out["tool_mask"][0].mul(out["completion_mask"][0]).sum() == 0
    assert out["tool_mask"][1].mul(out["completion_mask"][1]).sum() > 0
    assert out["completion_mask"].bool().any(dim=1).all()


def test_right_padding_is_refused(build, tiny):
    """Fault B5: it silently misaligns image tokens."""
    processor = copy.deepcopy(tiny.processor)
    processor.tokenizer.padding_side = "right"
    with pytest.raises(ValueError, match="pads on the right"):
        build(processor=processor)


def test_an_observation_over_budget_is_not_counted_as_a_zoom(build, monkeypatch):
    """Fault B6: TRL drops the observation after the environment counted it."""
    trainer = build(limits=Limits(3, 200, 45))
    play_lines(trainer, monkeypatch, (CALL, ANSWER))
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["zooms/mean"] == 0 and log["stops/episode_tokens"] == 1


def test_images_and_placeholders_that_do_not_match_stop_the_run_by_name(build, monkeypatch):
    """Fault B8: TRL drops the images of the whole batch instead."""
    from dataclasses import replace

    trainer = build(limits=Limits(3, 200, 600))
    play_lines(trainer, monkeypatch, (CALL, ANSWER))

    def corrupted(*args, **kwargs):
        return [replace(e, tokens=replace(e.tokens, images=e.tokens.images[:1])) for e in play(*args, **kwargs)]

    monkeypatch.setattr("rl.playing.play", corrupted)
    with pytest.raises(ValueError, match=r"an episode has .* image placeholders"):
        trainer.train()


def test_a_turn_never_generates_past_what_is_left(build, monkeypatch):
    """Fault B10: TRL generates up to the whole budget at each turn and then slices."""
    trainer = build(limits=Limits(3, 1, 220))
    written = []
    original = Decoder.advance

    def advance(*args):
        turns = original(*args)
        written.extend(turn.token_ids for turn in turns)
        return turns

    monkeypatch.setattr(Decoder, "advance", advance)
    steps = []
    trainer.model.get_output_embeddings().register_forward_hook(lambda *_: steps.append(1))
    trainer.train()
    assert set(map(len, written)) == {1} and len(steps) == 1


def test_rollouts_run_without_dropout(build, monkeypatch):
    """Fault B11: TRL leaves adapters in training mode while they generate."""
    from peft import LoraConfig

    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=LANGUAGE_LINEARS)
    trainer = build(peft_config=config)
    modes = []
    original = Decoder.advance
    monkeypatch.setattr(Decoder, "advance", lambda *args: modes.append(trainer.model.training) or original(*args))
    before = weights(trainer.model)
    trainer.train()
    assert modes and not any(modes)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed and all("lora_" in name for name in changed)


def adapter_of_tiny(folder, modules):
    from peft import LoraConfig, get_peft_model

    network = load_model("tiny").network
    adapted = get_peft_model(network, LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(folder)


def loaded_for_training(folder, **options):
    return load_for_training(ModelConfig(str(folder), dtype="float32", **options), min_pixels=None, max_pixels=None)


def test_the_reference_is_the_policy_at_its_start_also_where_an_adapter_was_merged(build, tmp_path):
    adapter_of_tiny(tmp_path / "adapter", LANGUAGE_LINEARS)
    trainee = loaded_for_training(tmp_path / "adapter")
    trainer = build(model=trainee.model.network, load_reference=lambda: trainee.load_again().network, beta=0.1)
    policy, reference = trainer.model.state_dict(), trainer.ref_model.state_dict()
    assert policy.keys() == reference.keys()
    assert all(torch.equal(policy[name], reference[name]) for name in policy)
    trainer.train()
    assert abs(trainer.state.log_history[0]["kl"]) < 1e-6


def test_an_adapter_that_reaches_into_the_vision_tower_is_trained_there_when_it_goes_on(tmp_path):
    modules = ["q_proj", "qkv"]
    adapter_of_tiny(tmp_path / "adapter", modules)
    shape = dict(use_peft=True, lora_r=2, lora_alpha=4, lora_target_modules=modules)
    network = loaded_for_training(tmp_path / "adapter", **shape).model.network
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert any("visual" in name for name in trained) and all("lora_" in name for name in trained)


def test_a_reference_that_moves_goes_on_where_it_was(build, tmp_path):
    moving = dict(
        beta=0.1,
        sync_ref_model=True,
        ref_model_sync_steps=1,
        ref_model_mixup_alpha=0.5,
        save_strategy="steps",
        save_steps=1,
    )
    first = build(max_steps=2, **moving)
    first.train()
    third = build(max_steps=2, model=load_model("tiny").network, **moving)
    third.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    start = load_model("tiny").network.state_dict()
    for name, value in first.ref_model.state_dict().items():
        assert torch.allclose(value, third.ref_model.state_dict()[name], atol=1e-7), name
    assert any(not torch.equal(value, start[name]) for name, value in first.ref_model.state_dict().items())


def test_crops_reach_the_loss(build, monkeypatch):
    """Fault B15: images of a custom rollout are dropped before the loss."""
    trainer = build(limits=Limits(3, 200, 600))
    play_lines(trainer, monkeypatch, (CALL, ANSWER))
    grids = []
    original = trainer._get_per_token_logps_and_entropies
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *args, **kw: grids.append(len(kw["image_grid_thw"])) or original(*args, **kw),
    )
    trainer.train()
    assert grids[-1] == 8


def test_a_bug_in_the_environment_stops_training(build):
    """Fault B16: TRL turns whatever a tool raises into a message."""
    trainer = build()

    class Broken:
        def reset(self, **row):
            raise RuntimeError("our bug")

    trainer.make_environment = Broken
    with pytest.raises(RuntimeError, match="our bug"):
        trainer.train()


def test_a_reward_that_raises_stops_training_and_names_itself(build):
    def broken(task, episode):
        return 1 / 0

    trainer = build([Reward("broken", RewardKind.EPISODE, broken)])
    with pytest.raises(RewardError, match="reward broken raised ZeroDivisionError"):
        trainer.train()


def test_rewards_of_every_signature_train_together(build):
    async def slow(completions, **columns):
        return [0.1] * len(completions)

    def columns(prompts, completions, answer, **rest):
        assert all(isinstance(text, str) for text in answer)
        return [float(len(prompt[-1]["content"]) > 0) for prompt in prompts]

    def group(task, episodes):
        return [0.2] * len(episodes)

    rewards = [
        load_reward("accuracy"),
        Reward("group", RewardKind.GROUP, group),
        Reward("columns", RewardKind.TRL, columns),
        Reward("slow", RewardKind.TRL, slow),
    ]
    trainer = build(rewards, reward_weights=[1.0, 0.5, 0.5, 0.5])
    trainer.train()
    log = trainer.state.log_history[0]
    assert (log["rewards/group/mean"], log["rewards/columns/mean"]) == (pytest.approx(0.2), 1.0)


def test_groups_split_between_processes_are_refused():
    args = GRPOArguments(
        output_dir="unused", per_device_train_batch_size=2, gradient_accumulation_steps=2, num_generations=4,
        shared_prefix=False, use_cpu=True, bf16=False,
    )  # fmt: skip
    args.steps_per_generation = 1
    with pytest.raises(ValueError, match=r"2 x steps_per_generation 1.*multiple of num_generations 4"):
        check_groups(args)
    args.steps_per_generation = 2
    check_groups(args)
    args.shared_prefix = True
    with pytest.raises(ValueError, match=r"would tear groups apart.*shared_prefix to false"):
        check_groups(args)


def test_play_and_the_trainer_agree_token_for_token(build, tiny, episode_arguments):
    trainer = build(temperature=1.0)
    trainer.model.eval()
    ours = trainer.play_now("eval", trainer.tasks)
    renderer = Renderer(tiny.processor)
    theirs = play(
        TransformersPolicy(trainer.model, renderer, Sampling(temperature=0.0)),
        trainer.tasks,
        environment_factory=environment_factory(episode_arguments, tiny),
        limits=trainer.limits,
        renderer=renderer,
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a.tokens.prompt_ids, a.tokens.completion_ids, a.tokens.loss_mask) == (
            b.tokens.prompt_ids,
            b.tokens.completion_ids,
            b.tokens.loss_mask,
        )


def test_the_same_seed_gives_the_same_weights(build, _tiny):
    results = []
    for _ in range(2):
        trainer = build(max_steps=5, num_tasks=6, model=copy.deepcopy(_tiny.network))
        trainer.train()
        results.append(weights(trainer.model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_stop_reasons_are_logged(build):
    trainer = build()
    trainer.train()
    log = trainer.state.log_history[0]
    assert sum(log[f"stops/{reason.value}"] for reason in StopReason) == pytest.approx(1.0)


@pytest.mark.parametrize("config", [GRPOArguments, GRPOConfig])
def test_text_only_tasks_train_as_in_trl(tiny, tmp_path, config):
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"Say {n}"}]} for n in range(4)])

    def length(completions, **columns):
        return [float(sum(map(ord, c[0]["content"])) % 5) for c in completions]

    args = config(
        **ON_CPU,
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=2,
        max_steps=1,
        max_completion_length=8,
    )
    rewards = [Reward("length", RewardKind.TRL, length)]
    trainer = ZoomGRPOTrainer(tiny.network, rewards, args, train_dataset=rows, processing_class=tiny.processor)
    trainer.train()
    assert trainer.state.global_step == 1


def test_fewer_tasks_than_one_generation_plays_are_refused(build):
    with pytest.raises(ValueError, match="1 tasks are fewer than the 2 that one generation plays"):
        build(num_tasks=1)
