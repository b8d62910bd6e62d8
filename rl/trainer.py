"""GRPO on episodes: TRL's trainer with its tool loop replaced by the one loop that evaluation uses too.

What TRL does stays TRL's: sampling of prompts, advantages, clipping, KL, entropy, logging, checkpoints. What changes
is `_generate`: rollouts are played by `environments.play`, so a bug in a tool stops the run, budgets are kept before
an observation is shown, and the loss sees exactly the sampled tokens. Without tasks it is TRL's trainer unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from environments.rendering import Renderer
from environments.seats import Limits
from fovea.episodes import Episode
from fovea.kernels.image_blocks import apply_image_blocks, inherit_image_blocks
from fovea.kernels.layouts import without_adapters
from fovea.models.processors import load_processor
from fovea.replacing import replaced
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Rollout
from fovea.tasks import Task
from rewards.registry import Reward
from rewards.trl_adapter import columns, messages_of, to_trl
from rl.arguments import GRPOArguments, masked_stops
from rl.checkpoints import GRPOCheckpoints
from rl.checks import check_selection, check_training
from rl.engine import engine_of_ours
from rl.honoured import check_options, refuse_arguments
from rl.metrics import completion_numbers, completion_of, edit_numbers, edit_outcomes, numbers
from rl.old_policy import OldPolicy
from rl.payments import Payment, environment_rewards, payments
from rl.playing import Group, PlaysEpisodes
from rl.sampling import EpochCallback, EpochSampler, TaskHistory, has_signal, numbered
from rl.shared_loss import SharedPrefixLoss


def reference_of_ours(load: Callable[[], Any] | None) -> AbstractContextManager[None]:
    """In here TRL takes for its reference what `load` gives: it would load the name in the model's configuration, which
    is another model where an adapter was merged, or a revision was asked for."""
    if load is None:
        return nullcontext()
    return replaced(grpo_trainer, "create_model_from_path", lambda name, **options: load())


def _name_of(model: Any) -> str:
    return model if isinstance(model, str) else without_adapters(model).name_or_path


class ZoomGRPOTrainer(GRPOCheckpoints, PlaysEpisodes, OldPolicy, SharedPrefixLoss, GRPOTrainer):
    """`GRPOTrainer` that also takes tasks, an environment and Fovea's rewards.

    With `train_tasks` it plays episodes; every other argument is `GRPOTrainer`'s. With a `run` it writes a line for
    each rollout. `load_reference` loads the network that the KL term compares with; without it TRL loads the one that
    the model's configuration names.

    Raises:
        ValueError: for arguments with which an episode could not be trained on as it was played (`rl.checks`,
            `rl.honoured`), each with its cure.
    """

    def __init__(
        self,
        model: Any,
        rewards: Sequence[Reward],
        args: GRPOArguments,
        *,
        train_tasks: Sequence[Task] | None = None,
        eval_tasks: Sequence[Task] = (),
        environment_factory: Callable[[], Any] | None = None,
        limits: Limits | None = None,
        renderer: Renderer | None = None,
        run: RunDirectory | None = None,
        load_reference: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.last_played: list[tuple[Episode, Rollout]] = []
        self._forget_generation()
        self.tasks, self.eval_tasks = [*(train_tasks or ()), *eval_tasks], list(eval_tasks)
        self.limits, self.run = limits or Limits(), run
        self.make_environment = environment_factory or (lambda: None)
        self.history = TaskHistory(len(train_tasks or ()))
        if train_tasks is None:
            functions = [to_trl(reward) for reward in rewards]
            super().__init__(model, functions, args, environment_factory=environment_factory, **kwargs)
            self._mask_images()
            return
        refuse_arguments(kwargs)
        self.masked = masked_stops(args)
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = load_processor(_name_of(model))
        check_options(args, max_episode_tokens=self.limits.max_completion_tokens)
        check_training(model, kwargs["processing_class"], args, num_tasks=len(train_tasks))
        check_selection(train_tasks, rewards, args)
        own = environment_rewards(self.make_environment())
        with engine_of_ours(args.engine_kwargs), reference_of_ours(load_reference):
            super().__init__(
                model,
                [to_trl(reward) for reward in (*rewards, *own)],
                self._arguments_for_trl(args, num_own=len(own)),
                train_dataset=numbered(range(len(train_tasks))),
                eval_dataset=numbered(range(len(train_tasks), len(self.tasks))) if eval_tasks else None,
                **kwargs,
            )
        self.renderer = renderer or Renderer(self.processing_class, end_ids=self.eos_token_ids)
        self._mask_images()
        self.share_prefix()
        self.tools: Any = [True]  # TRL then takes every image of an episode from `tool_images`, prompt images included
        self.log_multimodal = False

    def _mask_images(self) -> None:
        """Masks what configurations say in models that TRL has loaded by their names: a named one, a reference."""
        apply_image_blocks(self.accelerator.unwrap_model(self.model))
        if self.ref_model is not None:
            inherit_image_blocks(*map(self.accelerator.unwrap_model, (self.ref_model, self.model)))

    def _arguments_for_trl(self, args: GRPOArguments, *, num_own: int) -> GRPOArguments:
        """A copy for TRL: truncated episodes leave the loss by our mask, since TRL's would hide them from attention."""
        args = copy.copy(args)
        args.reward_weights = args.reward_weights and [*args.reward_weights, *[1.0] * num_own]
        args.num_generations_eval = args.group_size_eval
        args.mask_truncated_completions = False
        args.max_completion_length = self.limits.max_completion_tokens
        return args

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        stock = super()._get_train_sampler(dataset)
        if not self.tasks:
            return stock
        options = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        sampler = EpochSampler(**{name: getattr(stock, name) for name in options})
        self.add_callback(EpochCallback(sampler))
        return sampler

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.tasks:
            return super()._generate_and_score_completions(inputs)
        numbers = [row["task_index"] for row in inputs]
        advantages = None
        try:
            with self.renderer.remembering():
                self._play(numbers)
                output = super()._generate_and_score_completions(columns([episode.task for episode in self._played]))
            advantages = output["advantages"]
            self._log_silence()
        finally:
            self._write_rollouts(advantages)
        return output

    def _forget_generation(self) -> None:
        self._played: list[Episode] = []
        self._paid: torch.Tensor | None = None
        self.left_out: list[Group] = []

    def _play(self, numbers: Sequence[int]) -> None:
        """Plays the tasks of these numbers, or in training those that take their place."""
        self._forget_generation()
        if not self.model.training:
            self._played = self.play_now("eval", [self.tasks[number] for number in numbers])
            return
        groups = self.play_generation(numbers)
        self._played = [episode for group in groups for episode in group.episodes]
        if self.args.dynamic_sampling:
            self._paid = torch.cat([group.paid for group in groups if group.paid is not None])
            nothing = [None] * self.args.group_size
            for column in dict.fromkeys(column for group in groups for column in group.extras):
                values = [value for group in groups for value in group.extras.get(column, nothing)]
                self._log_completion_extra(column, values)

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        """TRL's method of the same name, [all processes' rollouts, rewards], kept for the episodes' records."""
        self._rewards_now = super()._calculate_rewards(*args) if self._paid is None else gather(self._paid)
        return self._rewards_now

    def _log_silence(self) -> None:
        """`frac_reward_zero_std` as its name says: TRL asks the whole batch where it normalizes over the batch."""
        mode = "train" if self.model.training else "eval"
        size = self.args.group_size if mode == "train" else self.num_generations_eval
        weights, each = self.reward_weights.tolist(), self.args.normalizes_each
        silent = [not has_signal(group, weights, each=each) for group in self._rewards_now.split(size)]
        self._metrics[mode]["frac_reward_zero_std"][-1] = fmean(silent)

    def _write_rollouts(self, advantages: torch.Tensor | None) -> None:
        """A line for each rollout in the run directory; without what it was paid if a reward has raised."""
        mode = "train" if self.model.training else "eval"
        paid = [Payment()] * len(self._played)
        if advantages is not None:
            start = self.accelerator.process_index * len(advantages)
            paid = self._payments(self._rewards_now[start : start + len(advantages)], advantages)

        step = self.state.global_step + (mode == "train")  # the step that learns from them, as metrics count it

        def record(episode: Episode, payment: Payment, *, in_loss: bool) -> Rollout:
            return Rollout.of(episode, step=step, mode=mode, in_loss=in_loss, **asdict(payment))

        self.last_played = [
            (episode, record(episode, payment, in_loss=mode == "train" and any(self._loss_mask(episode))))
            for episode, payment in zip(self._played, paid, strict=True)
        ]
        if self.run is not None:
            self.run.add_rollouts(rollout for _, rollout in self.last_played)
            self.run.add_rollouts(
                record(episode, payment, in_loss=False)
                for group in self.left_out
                for episode, payment in zip(group.episodes, self._payments(group.paid), strict=True)
            )

    def _payments(self, paid: torch.Tensor | None, advantages: torch.Tensor | None = None) -> list[Payment]:
        """Rewards [rollouts, rewards], where they are known, and advantages, if there are any."""
        if paid is None:
            return [Payment()] * self.args.group_size
        if advantages is None:
            advantages = torch.full((len(paid),), torch.nan)
        return payments(paid, self.reward_func_names, self.reward_weights.tolist(), advantages)

    def _generate(self, prompts: list) -> tuple:
        """Token ids, masks and images of one episode per prompt, in the tuple that TRL's `_generate` returns."""
        if not self.tasks:
            return super()._generate(prompts)
        mode = "train" if self.model.training else "eval"
        episodes = self._played
        records = [episode.record for episode in episodes]
        for record in records:
            inputs = [self.renderer.image_inputs(image) for image in record.images]
            self.renderer.check(record.prompt_ids + record.completion_ids, inputs, name="an episode")
        images = [list(record.images) for record in records]
        left_out = [episode for group in self.left_out for episode in group.episodes]
        self._log_numbers(mode, episodes + left_out)
        return (
            [list(record.prompt_ids) for record in records],
            [list(record.completion_ids) for record in records],
            [self._loss_mask(episode) for episode in episodes],
            [messages_of(episode) for episode in episodes],
            [list(record.logprobs or ()) for record in records] if self.use_vllm else None,
            {"episode": episodes, "task": [episode.task for episode in episodes]},
            images if any(images) else None,
            images,
        )

    def _loss_mask(self, episode: Episode) -> list[int]:
        """1 where a token was sampled; all 0 for an episode that ended in a way that is left out of the loss."""
        mask = list(episode.record.loss_mask)
        return [0] * len(mask) if episode.stop_reason in self.masked else mask

    def _log_numbers(self, mode: str, episodes: list[Episode]) -> None:
        """Metrics of all processes' episodes."""
        rows = gather_object([numbers(episode) for episode in episodes])
        metrics = self._metrics[mode]
        for name in rows[0]:
            metrics[name].append(fmean(row[name] for row in rows))
        for name, value in completion_numbers(gather_object([completion_of(episode) for episode in episodes])).items():
            metrics[name].append(value)
        for name, values in edit_numbers(gather_object(edit_outcomes(episodes))).items():
            metrics[name] += values
        if mode == "train":
            self.state.num_input_tokens_seen += int(sum(row["tokens/all"] for row in rows))
        metrics["num_tokens"] = [self.state.num_input_tokens_seen]
