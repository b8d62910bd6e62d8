"""GRPO on episodes: TRL's trainer with its tool loop replaced by the one loop that evaluation uses too.

What TRL does stays TRL's: sampling of prompts, advantages, clipping, KL, entropy, logging, checkpoints. What changes
is `_generate`: rollouts are played by `environments.play`, so a bug in a tool stops the run, budgets are kept before
an observation is shown, and the loss sees exactly the sampled tokens. Without tasks it is TRL's trainer unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models.utils import unwrap_model_for_generation
from trl.trainer import grpo_trainer
from trl.trainer.utils import RepeatSampler

from environments.play import Limits, Policy, Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.probes.gap import narrow
from environments.probes.other_images import with_others
from environments.rendering import Renderer
from fovea.answers import score
from fovea.episodes import Episode, StopReason
from fovea.kernels.layouts import without_adapters
from fovea.models.loading import load_processor
from fovea.runs.checkpoints import WholeCheckpoints
from fovea.runs.directory import RunDirectory
from fovea.tasks import Task
from rewards.accuracy import accuracy
from rewards.registry import Reward, RewardKind
from rewards.trl_adapter import columns, messages_of, to_trl
from rl.arguments import GRPOArguments
from rl.checks import check_training
from rl.engine import Engine
from rl.honoured import check_options, refuse_arguments
from rl.metrics import completion_numbers, completion_of, environment_reward, numbers
from rl.shared_loss import SharedPrefixLoss

_PROMPT = [{"role": "user", "content": ""}]
"""Stands in TRL's dataset: the environment writes the real prompt."""


class EpochSampler(RepeatSampler):
    """TRL's sampler, its order made by the epoch alone: a continued training meets the prompts it would have met."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class ZoomGRPOTrainer(WholeCheckpoints, SharedPrefixLoss, GRPOTrainer):
    """`GRPOTrainer` that also takes tasks, an environment and Fovea's rewards.

    With `train_tasks` it plays episodes; every other argument is `GRPOTrainer`'s. `probes` are environments that show
    other crops, by name, in which the evaluation tasks are played again at each evaluation.

    Raises:
        ValueError: if groups of rollouts would be split between processes, or the processor pads on the right.
    """

    _last_loaded_step: int

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
        probes: Mapping[str, Callable[[], Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.last_played: list[tuple[Episode, dict[str, Any]]] = []
        self.probes = dict(probes or {})
        self.eval_tasks = list(eval_tasks)
        self.tasks = [*(train_tasks or ()), *eval_tasks]
        self.limits, self.run = limits or Limits(), run
        self.make_environment: Callable[[], Any] = environment_factory or (lambda: None)
        if train_tasks is None:
            super().__init__(
                model, [to_trl(reward) for reward in rewards], args, environment_factory=environment_factory, **kwargs
            )
            return
        refuse_arguments(kwargs)
        args, rewards = copy.copy(args), list(rewards)  # the caller's stay as they are
        if kwargs.get("processing_class") is None:
            name = model if isinstance(model, str) else without_adapters(model).name_or_path
            kwargs["processing_class"] = load_processor(name)
        check_options(args, max_episode_tokens=self.limits.max_completion_tokens)
        check_training(model, kwargs["processing_class"], args, num_tasks=len(train_tasks))
        environment = self.make_environment()
        if hasattr(environment, "get_reward"):
            rewards.append(Reward(type(environment).__name__, RewardKind.EPISODE, environment_reward))
            args.reward_weights = args.reward_weights and [*args.reward_weights, 1.0]
        # Truncated episodes leave the loss by their own mask: TRL's switch would also hide them from attention.
        self.masked = {StopReason.TURN_TOKENS, StopReason.EPISODE_TOKENS} if args.mask_truncated_completions else set()
        self.masked |= {StopReason.TURN_LIMIT} if args.mask_turn_limit else set()
        args.mask_truncated_completions = False
        args.max_completion_length = self.limits.max_completion_tokens
        rows = Dataset.from_list([{"prompt": _PROMPT, "task_index": index} for index in range(len(self.tasks))])
        # TRL makes its engine while it is made itself, and has no argument for another class.
        with patch.object(grpo_trainer, "VLLMGeneration", partial(Engine, engine_kwargs=args.engine_kwargs)):
            super().__init__(
                model,
                [to_trl(reward) for reward in rewards],
                args,
                train_dataset=rows.select(range(len(train_tasks))),
                eval_dataset=rows.select(range(len(train_tasks), len(rows))) if eval_tasks else None,
                **kwargs,
            )
        self.renderer = renderer or Renderer(self.processing_class, end_ids=self.eos_token_ids)
        self.share_prefix()
        self.tools = [True]  # TRL then takes every image of an episode from `tool_images`, prompt images included
        self.log_multimodal = False

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        stock = super()._get_train_sampler(dataset)
        if not self.tasks:
            return stock
        options = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return EpochSampler(**{name: getattr(stock, name) for name in options})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Transformers' method of the same name, and the rollouts that the checkpoint has not used up, if any."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (kept := Path(checkpoint) / self._rollouts_name).exists():
            self._step, self._buffered_inputs = torch.load(kept, weights_only=True, map_location=self.args.device)

    def _save_more(self, folder: Path) -> None:
        """Rollouts of which later steps still train, if any."""
        phase = self._step % (self.args.steps_per_generation * self.num_iterations)
        if phase:
            torch.save((phase, self._buffered_inputs), folder / self._rollouts_name)

    @property
    def _rollouts_name(self) -> str:
        return f"rollouts_{self.accelerator.process_index}.pt"

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.tasks:
            return super()._generate_and_score_completions(inputs)
        self._tasks_now = self._shown([self.tasks[row["task_index"]] for row in inputs])
        self._played: list[Episode] = []
        paid: list[dict[str, Any]] = [{}] * len(inputs)
        try:
            with self.renderer.remembering():
                output = super()._generate_and_score_completions(columns(self._tasks_now))
            paid = self._paid(output["advantages"])
        finally:
            self._write_episodes(paid)
        return output

    def _shown(self, tasks: list[Task]) -> list[Task]:
        """The tasks as they are played: in training, if so asked, with the information gap of the policy of now."""
        if not (self.args.information_gap and self.model.training):
            return tasks
        distinct = {id(task): task for task in tasks}
        with self._policy("eval") as policy:
            gaps = narrow(
                policy,
                list(distinct.values()),
                environment_factory=self.make_environment,
                renderer=self.renderer,
                is_right=lambda task, answer: score(task, answer) == 1,
                max_tokens=self.limits.max_tokens_per_turn,
                batch_size=self.args.rollout_batch_size,
            )
        found = dict(zip(distinct, gaps, strict=True))
        for name, values in (
            ("gap/view", [gap.share for gap in gaps]),
            ("gap/known_at_sight", [float(gap.is_known) for gap in gaps]),
        ):
            self._metrics["train"][name].append(fmean(gather_object(values)))
        return [found[id(task)].task for task in tasks]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The Trainer's evaluation; with probes, the evaluation tasks are played with true and with other crops too."""
        metrics = super().evaluate(*args, **kwargs)
        if self.probes:
            probed = self._probe()
            self.log(probed)
            metrics |= probed
        return metrics

    def _probe(self) -> dict[str, float]:
        """Accuracy on the evaluation tasks by what zooms return, and how much true crops add to the worst of them."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        tasks = (with_others(self.eval_tasks) if "other" in self.probes else self.eval_tasks)[rank::count]
        found = {}
        for name, make_environment in {"true": self.make_environment, **self.probes}.items():
            with self._policy("eval") as policy:
                played = self._play_tasks(policy, tasks, make_environment)
            found[name] = fmean(gather_object([accuracy(episode.task, episode) for episode in played]))
        others = [value for name, value in found.items() if name not in ("true", "target")]
        dependence = {"eval_crop_dependence": found["true"] - max(others)} if others else {}
        return {f"eval_probe/{name}": value for name, value in found.items()} | dependence

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        """TRL's method of the same name, [all processes' rollouts, rewards], kept for the episodes' records."""
        self._rewards_now = super()._calculate_rewards(*args)
        return self._rewards_now

    def _paid(self, advantages: torch.Tensor) -> list[dict[str, Any]]:
        """What each of this process's rollouts was paid, part by part, and its advantage."""
        start = self.accelerator.process_index * len(advantages)
        rows = self._rewards_now[start : start + len(advantages)].tolist()
        weighted = self._rewards_now * self.reward_weights.to(self._rewards_now.device)
        unscorable = self._rewards_now.isnan().all(1)
        totals = weighted.nansum(1).masked_fill(unscorable, torch.nan)[start : start + len(advantages)].tolist()
        return [
            {
                "rewards": {n: None if isnan(v) else v for n, v in zip(self.reward_func_names, row, strict=True)},
                "reward": None if isnan(total) else total,
                "advantage": None if isnan(advantage) else advantage,
            }
            for row, total, advantage in zip(rows, totals, advantages.tolist(), strict=True)
        ]

    def _write_episodes(self, paid: list[dict[str, Any]]) -> None:
        """A line for each rollout in the run directory; without what it was paid if a reward has raised."""
        self.last_played = list(zip(self._played, paid, strict=False))
        if self.run is None:
            return
        mode = "train" if self.model.training else "eval"
        for episode, details in self.last_played:
            in_loss = mode == "train" and any(self._loss_mask(episode))
            self.run.add_episode(episode, step=self.state.global_step, mode=mode, in_loss=in_loss, **details)

    def _generate(self, prompts: list) -> tuple:
        """Token ids, masks and images of one episode per prompt, in the tuple that TRL's `_generate` returns."""
        if not self.tasks:
            return super()._generate(prompts)
        mode = "train" if self.model.training else "eval"
        episodes = self._play(mode)
        records = [episode.record for episode in episodes]
        for record in records:
            inputs = [self.renderer.image_inputs(image) for image in record.images]
            self.renderer.check(record.prompt_ids + record.completion_ids, inputs, name="an episode")
        images = [list(record.images) for record in records]
        self._played = episodes
        self._log_numbers(mode, episodes)
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

    def _play(self, mode: str) -> list[Episode]:
        with self._policy(mode) as policy:
            return self._play_tasks(policy, self._tasks_now, self.make_environment)

    def _play_tasks(self, policy: Policy, tasks: Sequence[Task], make_environment: Callable[[], Any]) -> list[Episode]:
        return play(
            policy,
            tasks,
            environment_factory=make_environment,
            limits=self.limits,
            renderer=self.renderer,
            batch_size=max(1, len(tasks)) if self.use_vllm else self.args.rollout_batch_size,
        )

    @contextmanager
    def _policy(self, mode: str) -> Iterator[Policy]:
        """What writes the turns: vLLM with the weights of now, or the model itself."""
        sampling = Sampling(self.temperature, self.top_p, self.top_k or 0, self.min_p or 0.0)
        if mode == "eval":
            sampling = Sampling(self.args.eval_temperature)
        if self.use_vllm:
            if self.state.global_step != self._last_loaded_step:
                with profiling_context(self, "sync_weights"):
                    self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
            with self.vllm_generation.awake():
                yield self.vllm_generation.policy(self.renderer, sampling)
            return
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as network:
            yield TransformersPolicy(
                network,
                self.renderer,
                sampling,
                batch_size=self.args.rollout_batch_size,
                keep_caches=self.args.shared_prefix,
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
        if mode == "train":
            self.state.num_input_tokens_seen += int(sum(row["tokens/all"] for row in rows))
        metrics["num_tokens"] = [self.state.num_input_tokens_seen]
