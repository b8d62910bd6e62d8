"""Arguments of `train_grpo.py`: TRL's own, and what tasks and rewards need beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

from datasets import Dataset
from trl import GRPOConfig, ModelConfig

from environments.arguments import EpisodeArguments
from fovea.arguments import (
    EngineArguments,
    MaskArguments,
    PixelArguments,
    SharingArguments,
    TaskArguments,
    TimeArguments,
    VisionArguments,
)
from fovea.data.sources import read_dataset
from fovea.episodes import StopReason


@dataclass
class GRPOArguments(SharingArguments, EngineArguments, GRPOConfig):
    """TRL's GRPOConfig with a few arguments more. Gradients of all rollouts of a step come from one generation."""

    _VALID_DICT_FIELDS: ClassVar = [*GRPOConfig._VALID_DICT_FIELDS, "vllm_engine_kwargs"]  # type: ignore[misc]

    @property
    def group_size(self) -> int:
        """`num_generations`: rollouts of one task."""
        return cast(int, self.num_generations)

    @property
    def group_size_eval(self) -> int:
        """Rollouts of one held-out task: `num_generations_eval`, or else one where all would be alike (greedy)."""
        return self.num_generations_eval or (self.group_size if self.eval_temperature else 1)

    @property
    def normalizes_each(self) -> bool:
        """True if each reward has advantages of its own, which are then summed."""
        return self.multi_objective_aggregation == "normalize_then_sum"

    @property
    def num_micro_batches(self) -> int:
        """`steps_per_generation`, which TRL has filled in: the micro-batches that one generation makes."""
        return cast(int, self.steps_per_generation)

    @property
    def num_rollouts(self) -> int:
        """Rollouts of one generation, by one process."""
        return self.per_device_train_batch_size * self.num_micro_batches

    eval_temperature: float = field(default=0.0, metadata={"help": "Sampling temperature in evaluation; 0 is greedy."})
    max_packed_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens in one row of the loss. A row holds each prompt once, then its completions. A larger "
            "micro-batch is computed in parts, and again in backward: memory is that of one part."
        },
    )
    mask_turn_limit: bool = field(
        default=False,
        metadata={
            "help": "Leave episodes that ran out of turns out of the loss (Mini-o3). mask_truncated_completions leaves "
            "out those that ran out of tokens, as in TRL."
        },
    )
    rollout_batch_size: int = field(
        default=64, metadata={"help": "Episodes that generate side by side; vLLM takes all."}
    )
    dynamic_sampling: int = field(
        default=0,
        metadata={
            "help": "Groups whose rewards are all equal teach nothing. Before the loss, replace them by groups of "
            "other tasks, at most so many times (DAPO). 0: never."
        },
    )
    task_selection: str = field(
        default="order",
        metadata={
            "help": "order: every task once an epoch. difficulty: tasks are drawn by how often they were right "
            "of late: mostly those that are right half of the time, seldom those that always or never are.",
            "choices": ["order", "difficulty"],
        },
    )
    information_gap: bool = field(
        default=False,
        metadata={
            "help": "Show each task at the largest first view at which the policy, made to answer without zooming, is "
            "wrong, so that looking is the only way; crops come from the original as ever."
        },
    )
    probes: list[str] | None = field(
        default=None,
        metadata={
            "help": "At each evaluation the held-out tasks are also played with other crops (noise, blank, random, "
            "other, target): the accuracy that true crops add is logged as eval_crop_dependence.",
        },
    )
    log_trajectories: int = field(
        default=4, metadata={"help": "Rollouts that are sent as pictures to the trackers of report_to; 0 for none."}
    )
    log_trajectories_steps: int = field(default=20, metadata={"help": "Send them every so many steps."})
    collapse_action: str = field(
        default="warn",
        metadata={
            "help": "When zooming, looking (with --probes) or the policy's entropy collapses: warn; stop; or keep, "
            "which stops and leaves the last checkpoint from before it in last_good.",
            "choices": ["warn", "stop", "keep"],
        },
    )


def masked_stops(args: GRPOArguments) -> set[StopReason]:
    """The ways to end that leave an episode out of the loss."""
    truncated = {StopReason.TURN_TOKENS, StopReason.EPISODE_TOKENS} if args.mask_truncated_completions else set()
    return truncated | ({StopReason.TURN_LIMIT} if args.mask_turn_limit else set())


@dataclass(kw_only=True)
class GRPOScriptArguments(TaskArguments, PixelArguments, TimeArguments, VisionArguments, MaskArguments):
    """The source of tasks, the rewards, and the weights that GRPO trains."""

    eval_dataset_name: str | None = field(default=None, metadata={"help": "Held-out tasks, in the same forms."})
    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": "Rewards: names, package.module:function, ./file.py:function, or a reward model id."},
    )
    cold_start_config: str | None = field(
        default=None,
        metadata={
            "help": "If model_name_or_path is the folder this SFT config writes and does not exist yet, make it first."
        },
    )

    def load_prompts(self) -> Dataset:
        """`dataset_name` as TRL's own trainer takes it, with a column `prompt`: a file, a saved dataset or a hub id.

        Raises:
            ValueError: if there is no such column.
        """
        data = read_dataset(self.dataset_name, split=self.dataset_split, config=self.dataset_config)
        if "prompt" not in data.column_names:
            raise ValueError(
                f"{self.dataset_name} has no column 'prompt' but {data.column_names}: --environment none takes prompts"
            )
        return data.select(range(min(len(data), self.max_tasks or len(data))))


ARGUMENTS = (GRPOScriptArguments, EpisodeArguments, ModelConfig, GRPOArguments)
"""All that `train_grpo.py` takes."""
