"""Numbers among options: none that is no number, and none below the least that makes sense.

Other options of ours start at 0. Other options of TRL and Transformers have no bound here, for some of them mean
something by negative numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

ABOVE_0 = {
    "eval_steps", "gpu_memory_gib", "logging_steps", "looseness", "max_minutes", "num_train_epochs",
    "repetition_penalty", "save_steps", "top_p",
}  # fmt: skip
FROM_1 = {
    "batch_size", "crop_max_pixels", "crop_min_pixels", "generation_batch_size", "gradient_accumulation_steps",
    "log_trajectories_steps", "lora_r", "max_asks", "max_attempts", "max_completion_length", "max_episode_tokens",
    "max_image_tokens", "max_length", "max_packed_tokens", "max_pixels", "max_tasks", "max_tokens_per_turn",
    "max_traces", "max_turns", "max_uses", "min_pixels", "num_candidates", "num_chains", "num_classes",
    "num_generations", "num_generations_eval", "num_images", "num_iterations", "num_samples", "num_scenes",
    "num_tasks", "num_traces", "num_workers", "per_device_eval_batch_size", "per_device_train_batch_size",
    "pixel_pooling", "ref_model_sync_steps", "rollout_batch_size", "save_total_limit", "steps_per_generation",
    "token_pooling", "total", "view_px", "view_sizes_px", "vllm_max_model_length", "vllm_tensor_parallel_size",
}  # fmt: skip
FROM_0 = {
    "beta", "data_seed", "dataloader_num_workers", "epsilon", "epsilon_high", "eval_delay", "learning_rate",
    "lora_dropout", "max_grad_norm", "seed", "temperature", "warmup_steps", "weight_decay",
}  # fmt: skip
UNBOUNDED = {"delta", "max_grad_norm"}
"""Options that infinity turns off."""


def refused_numbers(values: Mapping[str, Any], kinds: Sequence[type]) -> list[str]:
    """What is wrong with values of the fields of dataclasses, or with numbers in their lists, in words."""
    ours = {name for kind in kinds for base in kind.__mro__ if _is_ours(base) for name in _declared(base)}
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    found = (_refused(name, value, is_ours=name in ours) for name, value in values.items() if name in known)
    return [problem for problem in found if problem]


def _refused(name: str, value: Any, *, is_ours: bool) -> str | None:
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if math.isnan(number) or (math.isinf(number) and name not in UNBOUNDED):
            return f"{name} is {number}: give a finite number"
        if name in ABOVE_0 and number <= 0:
            return f"{name} is {number}: give a number above 0"
        if name in FROM_1 and number < 1:
            return f"{name} is {number}: give 1 or more"
        if (name in FROM_0 or (is_ours and name not in ABOVE_0 | FROM_1)) and number < 0:
            return f"{name} is {number}: give 0 or more"
        if name == "max_steps" and number < 0 and number != -1:
            return f"max_steps is {number}: give 1 or more, or -1 for the length that num_train_epochs gives"
    return None


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("trl", "transformers", "builtins")


def _declared(kind: type) -> set[str]:
    return set(vars(kind).get("__annotations__", ()))
