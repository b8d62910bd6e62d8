"""Every option of TRL's takes effect on episodes or stops the run by name, and TRL's other promises hold."""

import inspect
from dataclasses import fields

import pytest
import torch
from transformers import TrainingArguments
from trl import GRPOConfig
from trl.trainer import grpo_config, grpo_trainer

from environments.arguments import EpisodeArguments
from environments.check import check_environment
from environments.factories import environment_factory
from environments.play import Sampling
from environments.policies.decoding import OpenTurn
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Limits, tools_of
from environments.zoom import ZoomEnvironment
from fovea.config import parse
from fovea.kernels.layouts import without_adapters
from fovea.models.loading import freeze_vision
from fovea.models.random_models import random_model
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.checks import check_groups
from rl.honoured import HONOURED, REFUSED, REFUSED_WITH_SHARED_PREFIX, VALUES, check_options
from rl.trainer import ZoomGRPOTrainer
from synthesis.shapes import make_tasks
from tests.rl.test_trainer import ANSWER, CALL, play_lines
from tests.training import ON_CPU, by_place

TRANSFORMERS = set(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon
    auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval
    do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_steps eval_strategy eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config
    full_determinism gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
    ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names label_smoothing_factor
    learning_rate length_column_name liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model neftune_noise_alpha
    num_train_epochs optim optim_args optim_target_modules output_dir parallelism_config per_device_eval_batch_size
    per_device_train_batch_size prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model
    save_steps save_strategy save_total_limit seed skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    train_sampling_strategy use_cache use_cpu use_liger_kernel warmup_steps weight_decay
    """.split()  # noqa: SIM905
)
"""The Trainer's own fields, which act in its loop as ever."""
OTHER_VALUES = {
    "repetition_penalty": 1.1,
    "generation_kwargs": {"num_beams": 2},
    "cache_implementation": "static",
    "chat_template_kwargs": {"enable_thinking": False},
    "max_tool_calling_iterations": 3,
    "vllm_structured_outputs_regex": "a*",
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"block_size": 32},
    "use_transformers_paged": True,
    "model_init_kwargs": {"dtype": "bfloat16"},
    "neftune_noise_alpha": 5.0,
}


def arguments(**options) -> GRPOArguments:
    return GRPOArguments(output_dir="out", per_device_train_batch_size=8, **(ON_CPU | options))


def test_every_field_is_known_and_a_new_one_is_asked_about():
    names = {field.name for field in fields(GRPOConfig)}
    assert {field.name for field in fields(TrainingArguments)} == TRANSFORMERS
    assert names - TRANSFORMERS == HONOURED | REFUSED.keys()
    assert not HONOURED & REFUSED.keys()
    assert OTHER_VALUES.keys() == REFUSED.keys() | REFUSED_WITH_SHARED_PREFIX.keys()


def test_the_defaults_of_all_options_are_accepted():
    check_options(arguments(), max_episode_tokens=2048)


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_an_option_without_effect_stops_the_run_with_the_cure(name):
    with pytest.raises(ValueError, match=f"^{name} .* has no effect on episodes: \\w+"):
        check_options(arguments(**{name: OTHER_VALUES[name]}), max_episode_tokens=2048)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"max_completion_length": 100}, "--max_episode_tokens"),
        ({"log_completions": True}, "--log_multimodal false"),
        ({"remove_unused_columns": True}, "leave it out"),
        ({"sync_ref_model": True, "beta": 0.0}, "give a beta"),
    ],
)
def test_options_that_depend_on_others_stop_the_run_with_the_cure(options, cure):
    with pytest.raises(ValueError, match=cure):
        check_options(arguments(**options), max_episode_tokens=2048)


@pytest.mark.parametrize("name", VALUES)
def test_values_that_trl_looks_at_in_the_first_step_are_checked_before(name):
    with pytest.raises(ValueError, match=f"{name} is 'false': use one of"):
        check_options(arguments(**{name: "false"}), max_episode_tokens=2048)
    for value in VALUES[name]:
        assert f'"{value}"' in inspect.getsource(grpo_trainer) + inspect.getsource(grpo_config), "TRL knows it"


@pytest.mark.parametrize("name", ["rollout_func", "tools", "train_dataset"])
def test_arguments_that_episodes_leave_no_place_for_are_refused(tiny, episode_arguments, name):
    factory = environment_factory(episode_arguments, tiny)
    with pytest.raises(ValueError, match=f"{name} has no effect on episodes"):
        ZoomGRPOTrainer(
            tiny.network, [Reward("place", RewardKind.GROUP, by_place)], arguments(num_generations=2),
            train_tasks=make_tasks(num_tasks=2, seed=1), environment_factory=factory, **{name: [print]},
        )  # fmt: skip


def test_min_p_leaves_only_likely_tokens(tiny):
    policy = TransformersPolicy(tiny.network, Renderer(tiny.processor), Sampling(1.0, min_p=0.5))
    logits = torch.full((64, 645), -10.0)
    logits[:, 7], logits[:, 8], logits[:, 9] = 2.0, 1.9, 0.0
    assert set(policy._chooser()(logits, [OpenTurn(None, 1)] * 64).tolist()) == {7, 8}


def test_a_synchronized_reference_leaves_the_policy_s_tower_as_it_was(build, tiny):
    freeze_vision(tiny.network)
    trainer = build(max_steps=3, sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.5, beta=0.1)
    before = [weight.clone() for weight in trainer.model.model.visual.parameters()]
    trainer.train()
    after = list(trainer.model.model.visual.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    reference = trainer.ref_model.model.visual.parameters()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, reference, strict=True))
    assert all(row["kl"] == row["kl"] for row in trainer.state.log_history if "kl" in row)


def test_a_head_in_fp32_on_a_model_in_bf16_trains(build, tiny):
    """Not on tied embeddings, where TRL looks for them in the wrong place."""
    model = random_model("qwen3_vl-narrow", dtype=torch.bfloat16)
    model.processor.image_processor.size = dict(tiny.processor.image_processor.size)
    factory = environment_factory(EpisodeArguments(), model)
    trainer = build(model=model.network, make_environment=factory, processor=model.processor,
                    cast_lm_head_to_fp32=True, bf16=True)  # fmt: skip
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
    with pytest.raises(ValueError, match="tied to its embeddings"):
        build(cast_lm_head_to_fp32=True, bf16=True)


def test_the_caller_s_arguments_stay_as_they_are_and_a_processor_is_loaded(tiny, episode_arguments, tmp_path):
    args = arguments(num_generations=2, mask_truncated_completions=True, reward_weights=[2.0])
    before = args.to_dict()
    for _ in range(2):
        trainer = ZoomGRPOTrainer(
            tiny.network, [Reward("place", RewardKind.GROUP, by_place)], args, limits=Limits(3, 24, 220),
            train_tasks=make_tasks(num_tasks=4, seed=1),
            environment_factory=environment_factory(episode_arguments, tiny),
        )  # fmt: skip
        assert args.to_dict() == before and trainer.masked
        assert trainer.processing_class.tokenizer.padding_side == "left"


def test_trl_s_metrics_of_completions_and_tools_are_logged(build, monkeypatch):
    trainer = build(limits=Limits(3, 200, 600))
    play_lines(trainer, monkeypatch, (CALL, ANSWER), (ANSWER,))
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["tools/call_frequency"] == 0.5 and log["tools/failure_frequency"] == 0
    assert log["completions/clipped_ratio"] == 0
    assert log["completions/min_length"] < log["completions/mean_length"] < log["completions/max_length"]
    assert log["completions/mean_terminated_length"] == log["completions/mean_length"]


class Paying(ZoomEnvironment):
    """An environment with tools of every kind, and a reward of its own."""

    limit = print

    @staticmethod
    def double(number: int) -> str:
        """Doubles a number.

        Args:
            number: The number.
        """
        return str(2 * number)

    async def wait(self, seconds: float) -> str:
        """Waits.

        Args:
            seconds: How long.
        """
        return f"waited {seconds}"

    @classmethod
    def made(cls) -> None:
        raise AssertionError

    @property
    def broken(self) -> None:
        raise AssertionError("a property was evaluated")

    async def get_reward(self) -> float:
        return 0.25


def test_tools_are_told_by_trl_s_rule_awaited_and_the_environment_s_own_reward_is_paid(
    build, episode_arguments, tiny, monkeypatch
):
    settings = environment_factory(episode_arguments, tiny).args[0]
    assert tools_of(Paying(settings)).keys() == {"image_zoom_in_tool", "double", "wait"}
    assert "has public callables that are no tools by TRL's rule: limit, made" in check_environment(
        lambda: Paying(settings), calls=[("double", {"number": 2}), ("wait", {"seconds": 1})]
    )
    lines = [f'<tool_call>{{"name": "{name}", "arguments": {{"{key}": 2}}}}</tool_call>' for name, key in
             (("double", "number"), ("wait", "seconds"))]  # fmt: skip
    trainer = build(limits=Limits(4, 200, 600), make_environment=lambda: Paying(settings), reward_weights=[1.0])
    play_lines(trainer, monkeypatch, (*lines, ANSWER))
    trainer.train()
    assert trainer.state.log_history[0]["rewards/Paying/mean"] == 0.25
    episode, rollout = trainer.last_played[0]
    assert [turn.observation.text for turn in episode.turns[:2]] == ["4", "waited 2"]
    assert rollout.rewards["Paying"] == 0.25


@pytest.mark.parametrize("best", [{"load_best_model_at_end": True}, {"save_strategy": "best"}], ids=str)
def test_the_best_model_is_not_that_of_the_lowest_loss(best):
    on = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "save_strategy": "steps", **best}
    with pytest.raises(ValueError, match="metric_for_best_model eval_reward"):
        check_options(arguments(**on, metric_for_best_model="loss"), max_episode_tokens=100)
    check_options(arguments(**on, metric_for_best_model="eval_reward"), max_episode_tokens=100)


def test_an_option_that_is_asked_for_at_its_default_is_not_passed_over():
    words = ["--output_dir", "out", "--max_episode_tokens", "100", "--use_cpu", "--bf16", "false"]
    for asked in ([], ["--max_completion_length", "100"], ["--log_multimodal", "false"]):
        args, _ = parse([GRPOArguments, EpisodeArguments], arguments=words + asked)
        check_options(args, max_episode_tokens=100)
    args, _ = parse([GRPOArguments, EpisodeArguments], arguments=[*words, "--max_completion_length", "512"])
    with pytest.raises(ValueError, match="max_completion_length 512 has no effect"):
        check_options(args, max_episode_tokens=100)


def test_groups_are_whole_in_evaluation_too():
    args = arguments(eval_strategy="steps", eval_steps=2, eval_temperature=1.0)
    args.per_device_eval_batch_size = 4  # of two processes, which TRL counts together
    with pytest.raises(ValueError, match="not a multiple of num_generations_eval 8"):
        check_groups(args)
    args.num_generations_eval = 2
    check_groups(args)
    args.num_generations_eval, args.eval_temperature = None, 0.0
    check_groups(args)


@pytest.mark.parametrize("keeps_caches", [True, False])
def test_rollouts_compute_in_the_type_of_the_loss(tiny, episode_arguments, tmp_path, keeps_caches):
    trainer = ZoomGRPOTrainer(
        tiny.network,
        [Reward("place", RewardKind.GROUP, by_place)],
        GRPOArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_steps=1,
            shared_prefix=keeps_caches, **ON_CPU | {"bf16": True},
        ),
        train_tasks=make_tasks(num_tasks=1, seed=3),
        environment_factory=environment_factory(episode_arguments, tiny),
        limits=Limits(2, 8, 400),
        processing_class=tiny.processor,
    )  # fmt: skip
    types = {}

    def note(layer, given, output):
        types[torch.is_grad_enabled()] = output.dtype

    without_adapters(trainer.model).get_decoder().layers[0].mlp.up_proj.register_forward_hook(note)
    trainer.train()
    assert types == {True: torch.bfloat16, False: torch.bfloat16}
