"""TRL's options that take effect on episodes, and those that stop the run, each with its substitute.

A rollout here is an episode (`environments.play`), not a completion of TRL's own, so some options of `GRPOConfig` have
nothing to act on. None of them is passed over in silence. A test goes through all fields of `GRPOConfig`.
"""

from __future__ import annotations

from typing import Any

from fovea.config import asked_fields
from rl.arguments import GRPOArguments

REFUSED = {
    "repetition_penalty": "turns are sampled without one: leave it out",
    "generation_kwargs": "name the options themselves (temperature, top_p, top_k, min_p)",
    "cache_implementation": "rollouts keep caches of their own: leave it out",
    "chat_template_kwargs": "prompts are those of SFT and evaluation: leave it out",
    "max_tool_calling_iterations": "use --max_turns, which counts the last turn too",
    "vllm_structured_outputs_regex": "turns are read by the protocol's grammar: leave it out",
    "use_transformers_paged": "rollouts run --rollout_batch_size side by side: leave it out",
    "use_transformers_continuous_batching": "rollouts run --rollout_batch_size side by side: leave it out",
    "transformers_continuous_batching_config": "rollouts run --rollout_batch_size side by side: leave it out",
    "model_init_kwargs": "use --dtype, --attn_implementation, --model_revision and --load_in_4bit",
}
"""Fields that stop a training on episodes when they are set, and what to do instead."""
REFUSED_WITH_SHARED_PREFIX = {
    "neftune_noise_alpha": "its noise would be shared by what a row shares: add --shared_prefix false",
}
"""Fields that need TRL's own forward."""
HONOURED = frozenset(
    """
    beta cast_lm_head_to_fp32 delta disable_dropout ds3_gather_for_generation entropy_coef entropy_coef_delta
    entropy_coef_max entropy_coef_min entropy_target epsilon epsilon_high generation_batch_size
    importance_sampling_level log_completions log_completions_hub_repo log_multimodal log_unique_prompts loss_type
    mask_truncated_completions max_completion_length min_p multi_objective_aggregation num_completions_to_print
    num_generations num_generations_eval num_iterations off_policy_mask_threshold pad_to_multiple_of
    ref_model_mixup_alpha
    ref_model_sync_steps reward_weights router_aux_loss_coef sapo_temperature_neg sapo_temperature_pos scale_rewards
    shuffle_dataset steps_per_generation sync_ref_model temperature top_entropy_quantile top_k top_p
    trust_remote_code use_adaptive_entropy use_bias_correction_kl use_vllm vespo_k_neg vespo_k_pos vespo_lambda_neg
    vespo_lambda_pos vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port
    vllm_importance_sampling_cap vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
    vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_max_model_length vllm_mode
    vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout
    vllm_tensor_parallel_size
    """.split()  # noqa: SIM905
)
"""Fields of GRPOConfig, beyond the Trainer's own, that act as in TRL."""


VALUES: dict[str, tuple[str, ...]] = {
    "scale_rewards": ("group", "batch", "none"),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_mode": ("colocate", "server"),
}
"""Accepted values of options that TRL checks only in the first step, or later."""


def check_values(args: GRPOArguments) -> None:
    """Raises ValueError for an option of no known value."""
    for name, values in VALUES.items():
        if getattr(args, name) not in values:
            raise ValueError(f"{name} is {getattr(args, name)!r}: use one of {', '.join(values)}")
    if args.temperature == 0:
        raise ValueError("temperature is 0: all rollouts of a task would be alike, so give a number above 0")


def check_options(args: GRPOArguments, *, max_episode_tokens: int) -> None:
    """Raises ValueError for an option of no known value, or without effect on episodes, with what to use instead."""
    check_values(args)
    refused = REFUSED | (REFUSED_WITH_SHARED_PREFIX if args.shared_prefix else {})
    changed = asked_fields(args)
    for name, cure in refused.items():
        if name in changed:
            raise ValueError(f"{name} {changed[name]!r} has no effect on episodes: {cure}")
    if changed.get("max_completion_length", max_episode_tokens) != max_episode_tokens:
        raise ValueError(
            f"max_completion_length {args.max_completion_length} has no effect on episodes, which have at most "
            f"{max_episode_tokens} tokens after the prompt: use --max_episode_tokens"
        )
    keeps_best = args.load_best_model_at_end or args.save_strategy == "best"
    if keeps_best and args.metric_for_best_model in (None, "loss", "eval_loss"):
        raise ValueError(
            "the best model would be that of the lowest eval_loss, which says nothing of answers: greedy rollouts of a "
            "task are alike, so that their advantages are 0. Add --metric_for_best_model eval_reward"
        )
    if args.remove_unused_columns:
        raise ValueError("remove_unused_columns would remove the column by which tasks are found: leave it out")
    if args.sync_ref_model and args.beta == 0:
        raise ValueError("sync_ref_model moves a reference model, and beta 0 has none: give a beta, or leave it out")
    if args.log_completions and args.log_multimodal:
        raise ValueError(
            "log_completions would log the pictures of all rollouts, which stay with their processes: add "
            "--log_multimodal false, and see --log_trajectories for pictures"
        )


def refuse_arguments(given: dict[str, Any]) -> None:
    """Raises ValueError for arguments of TRL's trainer that episodes leave no place for."""
    cures = {
        "rollout_func": "rollouts are played by environments.play: give an environment_factory",
        "tools": "the tools are those of the environment: make them methods of its class",
        "train_dataset": "what is trained on are train_tasks",
        "eval_dataset": "what is evaluated on are eval_tasks",
    }
    for name, cure in cures.items():
        if given.get(name) is not None:
            raise ValueError(f"{name} has no effect on episodes: {cure}")
