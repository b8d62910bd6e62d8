"""Refusals of a training before it starts; `fovea doctor` reports the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from fovea.config import ConfigError
from fovea.kernels.layouts import without_adapters
from fovea.models.masks import check_engine
from fovea.processes import process_state
from fovea.tasks import Task
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments


def check_training(model: Any, processor: Any, args: GRPOArguments, *, num_tasks: int) -> None:
    """Raises ValueError for what a training on episodes cannot do right: each of the checks below, and three more."""
    check_groups(args)
    if processor.tokenizer.padding_side != "left":
        raise ValueError("the processor pads on the right, which shifts image tokens: set padding_side='left'")
    check_family(processor)
    check_tasks(num_tasks, args, process_state().num_processes)
    base = None if isinstance(model, str) else without_adapters(model)
    check_installed(args)
    if args.use_vllm:
        check_engine(model, "vLLM")
    is_tied = base is not None and base.get_output_embeddings().weight is base.get_input_embeddings().weight
    if args.cast_lm_head_to_fp32 and is_tied:
        raise ValueError(
            "cast_lm_head_to_fp32: the head is tied to its embeddings, which TRL cannot part in a model with images: "
            "leave it out"
        )
    if is_deepspeed_zero3_enabled() and not args.use_vllm and not args.ds3_gather_for_generation:
        raise ValueError(
            "ds3_gather_for_generation is false: under ZeRO-3 a process whose episodes have ended would leave the "
            "others waiting for its share of the weights. Leave it true, or let vLLM write (use_vllm)"
        )
    if (args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true") and not args.use_vllm:
        raise ValueError(
            "FSDP: a process whose episodes have ended would leave the others waiting for its share of the weights. "
            "Use DeepSpeed (configs/accelerate), or let vLLM write (use_vllm)"
        )
    if args.sync_ref_model and is_deepspeed_zero3_enabled():
        raise ValueError(
            "sync_ref_model under ZeRO-3: the reference is in parts that no checkpoint holds, so that a resumed run "
            "would compare with another. Use ZeRO-2, or leave it out"
        )


def check_installed(args: GRPOArguments) -> None:
    """Raises ValueError if vLLM is to write and is not there."""
    if args.use_vllm and find_spec("vllm") is None:
        raise ValueError("use_vllm: vLLM is not installed: pip install 'fovea[vllm]', or leave it out")


def check_groups(args: GRPOArguments) -> None:
    """Raises ValueError unless every process rolls out whole groups, and trains on whole groups if they share."""
    size, group, rollouts = args.per_device_train_batch_size, args.group_size, args.num_rollouts
    if rollouts % group:
        raise ValueError(
            f"each process rolls out {rollouts} episodes (per_device_train_batch_size {size} x steps_per_generation "
            f"{args.steps_per_generation}), which is not a multiple of num_generations {group}: groups would be split "
            "between processes"
        )
    if args.shared_prefix and size % group:
        raise ValueError(
            f"per_device_train_batch_size {size} is not a multiple of num_generations {group}, so that micro-batches "
            "would tear groups apart, whose prompts are computed once: make it a multiple (max_packed_tokens bounds "
            "its memory), or set shared_prefix to false"
        )
    evaluated = args.group_size_eval
    if args.eval_strategy != "no" and args.per_device_eval_batch_size % evaluated:
        raise ValueError(
            f"per_device_eval_batch_size {args.per_device_eval_batch_size} is not a multiple of num_generations_eval "
            f"{evaluated}: rewards of groups would see parts of them"
        )


def check_tasks(num_tasks: int, args: GRPOArguments, num_processes: int) -> None:
    """Raises ValueError if one generation asks for more tasks than there are, or no others could replace them."""
    wanted = args.num_rollouts * num_processes // args.group_size
    if num_tasks < wanted:
        raise ValueError(
            f"{num_tasks} tasks are fewer than the {wanted} that one generation plays: give more, or make "
            "per_device_train_batch_size or steps_per_generation smaller"
        )
    if args.dynamic_sampling < 0:
        raise ValueError(f"dynamic_sampling {args.dynamic_sampling}: give how many times groups may be replaced, or 0")
    if num_tasks == wanted and (args.dynamic_sampling or args.task_selection == "difficulty"):
        raise ValueError(
            f"one generation plays all {num_tasks} tasks, so that dynamic_sampling and task_selection have none to "
            "choose from: give more tasks, or a smaller batch"
        )


def check_selection(tasks: Sequence[Task], rewards: Sequence[Reward], args: GRPOArguments) -> None:
    """Raises ValueError unless tasks can be chosen, and groups be replaced, as the arguments say."""
    if args.task_selection not in ("order", "difficulty"):
        raise ValueError(f"task_selection is {args.task_selection!r}: use order or difficulty")
    models = [reward.name for reward in rewards if reward.kind is RewardKind.MODEL]
    if args.dynamic_sampling and models and is_deepspeed_zero3_enabled():
        raise ValueError(
            f"dynamic_sampling under ZeRO-3 cannot ask the reward model {models[0]}: a process without groups to "
            "replace would leave the others waiting for its share of the weights. Use ZeRO-2, or leave one of them out"
        )
    if args.task_selection == "difficulty" and (unknown := [task.id for task in tasks if task.answer is None]):
        raise ValueError(
            f"task_selection difficulty goes by right answers, and {len(unknown)} of {len(tasks)} tasks have none (the "
            f"first is {unknown[0]!r}): give answers, or leave it at order"
        )


def check_weights(names: Sequence[str], weights: Sequence[float] | None) -> None:
    """Raises ConfigError unless there is a weight for each reward."""
    if weights is not None and len(weights) != len(names):
        raise ConfigError(
            f"reward_weights {list(weights)} do not fit reward_funcs {list(names)}: give one for each (where the "
            "command line has none, those of the config apply; without --config that is tiny_grpo.yaml)"
        )


def check_family(processor: Any) -> None:
    """Raises ValueError for a processor of a family that GRPO on episodes does not train."""
    if "image_grid_thw" not in processor.model_input_names:
        name = type(processor).__name__
        raise ValueError(f"GRPO on episodes trains the Qwen-VL families; models of {name} do SFT and evaluation")


def check_prompt_rewards(rewards: Sequence[Reward]) -> None:
    """Raises ValueError for rewards that read episodes, which training on prompts alone does not have."""
    for reward in rewards:
        if reward.kind not in (RewardKind.TRL, RewardKind.MODEL):
            raise ValueError(f"{reward.name} reads episodes, and --environment none has none: use TRL's form of reward")
