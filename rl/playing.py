"""The episodes of a generation: the choice of tasks, and the policy that plays them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models.utils import unwrap_model_for_generation
from trl.trainer import grpo_trainer

from environments.play import Policy, Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.probes.gap import narrow
from environments.rendering import Renderer
from environments.seats import Limits
from fovea.answers import score
from fovea.episodes import Episode
from fovea.replacing import replaced
from fovea.tasks import Task
from rewards.accuracy import accuracy
from rewards.trl_adapter import columns, messages_of
from rl.arguments import GRPOArguments
from rl.engine import Engine
from rl.sampling import TaskHistory, has_signal


@dataclass
class Group:
    """The rollouts of one task, by its number; with --dynamic_sampling also what they were paid [rollouts, rewards].

    `extras` are the columns that reward functions have logged of them.
    """

    task: int
    episodes: list[Episode]
    paid: torch.Tensor | None = None
    has_signal: bool = True
    extras: dict[str, list] = field(default_factory=dict)


class PlaysEpisodes(GRPOTrainer):
    """Plays the tasks of a generation, for the trainer that it is mixed into."""

    args: GRPOArguments
    tasks: list[Task]
    limits: Limits
    renderer: Renderer
    make_environment: Callable[[], Any]
    history: TaskHistory
    left_out: list[Group]
    """Of the last generation: what was played and is not trained on."""
    vllm_generation: Engine
    _last_loaded_step: int

    def play_generation(self, numbers: Sequence[int]) -> list[Group]:
        """Groups of the training tasks that have these numbers, one number for each rollout.

        With --task_selection difficulty other tasks are played than those; with --dynamic_sampling groups that others
        have replaced are then in `left_out`. All processes call it together; each is given, and returns, its own.
        """
        self.left_out = []
        mine = list(numbers[:: self.args.group_size])
        everyones = _of_all(mine)
        asked = [number for theirs in everyones for number in theirs]
        rng = np.random.default_rng([self.args.seed, self.state.global_step, *asked])
        if self.args.task_selection == "difficulty":
            mine = self._dealt(self.history.draw(len(asked), rng), [len(theirs) for theirs in everyones])
            asked = [number for theirs in _of_all(mine) for number in theirs]
        groups = self._play_groups(mine)
        if self.args.dynamic_sampling:
            self._log_mean("groups/without_signal", [float(not group.has_signal) for group in groups])
        for _ in range(self.args.dynamic_sampling):
            places = [place for place, group in enumerate(groups) if not group.has_signal]
            wanted = [len(theirs) for theirs in _of_all(places)]
            others = self.history.draw(sum(wanted), rng, without=asked)
            if not others:
                break
            asked += others
            fresh = self._play_groups(self._dealt(others, wanted))
            for place, group in zip(places, [group for group in fresh if group.has_signal], strict=False):
                groups[place] = group
        if self.args.dynamic_sampling:
            self._log_mean("groups/still_without_signal", [float(not group.has_signal) for group in groups])
        kept = {group.task for group in groups}
        self.left_out = [group for group in self.left_out if group.task not in kept]
        return groups

    def _play_groups(self, numbers: Sequence[int]) -> list[Group]:
        """A group of each of these tasks, as many as may be, noted in the history."""
        size = self.args.group_size
        episodes = self.play_now("train", [self.tasks[number] for number in numbers for _ in range(size)])
        groups = [Group(number, episodes[place * size :][:size]) for place, number in enumerate(numbers)]
        self.left_out += groups
        if self.args.dynamic_sampling:
            self._pay(groups)
        if self.args.task_selection == "difficulty":
            self.history.note(gather_object([(group.task, _success_rate(group.episodes)) for group in groups]))
        return groups

    def _pay(self, groups: Sequence[Group]) -> None:
        """Notes what the rollouts of groups were paid, by TRL's method, which gathers what all processes paid."""
        if not groups:
            return
        episodes = [episode for group in groups for episode in group.episodes]
        rows = [
            row | {"episode": episode, "task": episode.task}
            for row, episode in zip(columns([episode.task for episode in episodes]), episodes, strict=True)
        ]
        extras: dict[str, list] = defaultdict(list)
        with (
            replaced(grpo_trainer, "gather", lambda mine: mine),
            replaced(self, "_log_completion_extra", lambda column, values: extras[column].extend(values)),
        ):
            paid = super()._calculate_rewards(
                rows,
                [row["prompt"] for row in rows],
                list(map(messages_of, episodes)),
                [list(episode.record.completion_ids) for episode in episodes],
            )
        size, each = self.args.group_size, self.args.normalizes_each
        for place, group in enumerate(groups):
            here = slice(place * size, (place + 1) * size)
            group.paid = paid[here]
            group.has_signal = has_signal(group.paid, self.reward_weights.tolist(), each=each)
            group.extras = {column: values[here] for column, values in extras.items()}

    def play_now(self, mode: str, tasks: Sequence[Task]) -> list[Episode]:
        """Episodes of tasks by the policy of now; in training, if so asked, with its information gap."""
        shown = self._narrowed(tasks) if mode == "train" and self.args.information_gap else tasks
        with self.policy(mode) as policy:
            return self.play_tasks(policy, shown, self.make_environment)

    def play_tasks(self, policy: Policy, tasks: Sequence[Task], make_environment: Callable[[], Any]) -> list[Episode]:
        return play(
            policy,
            tasks,
            environment_factory=make_environment,
            limits=self.limits,
            renderer=self.renderer,
            batch_size=max(1, len(tasks)) if self.use_vllm else self.args.rollout_batch_size,
        )

    def _narrowed(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks at the views at which the policy of now cannot answer them at once."""
        distinct = {id(task): task for task in tasks}
        with self.policy("eval") as policy:
            gaps = narrow(
                policy,
                list(distinct.values()),
                environment_factory=self.make_environment,
                renderer=self.renderer,
                is_right=lambda episode: score(episode.task, episode.answer or "", episode.framing) == 1,
                max_tokens=self.limits.max_tokens_per_turn,
                batch_size=self.args.rollout_batch_size,
            )
        found = dict(zip(distinct, gaps, strict=True))
        self._log_mean("gap/view", [gap.share for gap in gaps])
        self._log_mean("gap/known_at_sight", [float(gap.is_known) for gap in gaps])
        return [found[id(task)].task for task in tasks]

    @contextmanager
    def policy(self, mode: str) -> Iterator[Policy]:
        """The policy that writes the turns: vLLM with the current weights, or the model itself."""
        sampling = Sampling(self.temperature, self.top_p, self.top_k or 0, self.min_p or 0.0)
        if mode == "eval":
            sampling = replace(sampling, temperature=self.args.eval_temperature)
        if self.use_vllm:
            if self.state.global_step != self._last_loaded_step:
                with profiling_context(self, "sync_weights"):
                    self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
            with self.vllm_generation.awake():
                yield self.vllm_generation.policy(self.renderer, sampling)
            return
        # Accelerate computes in 16 bits in the forward of the whole model alone, and cached decoding calls its parts.
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as network,
            self.accelerator.autocast(),
        ):
            yield TransformersPolicy(
                network,
                self.renderer,
                sampling,
                batch_size=self.args.rollout_batch_size,
                keep_caches=self.args.shared_prefix,
            )

    def _dealt(self, numbers: Sequence[int], shares: Sequence[int]) -> list[int]:
        """This process's part of what is drawn for all, which ask for so many each, the first ones first."""
        start = sum(shares[: self.accelerator.process_index])
        return list(numbers[start : start + shares[self.accelerator.process_index]])

    def _log_mean(self, name: str, values: Sequence[float]) -> None:
        """Logs the mean over all processes of a number of the training."""
        if everyones := gather_object(list(values)):
            self._metrics["train"][name].append(fmean(everyones))


def _of_all(mine: Sequence[int]) -> list[list[int]]:
    """The objects of all processes, in the order of the processes."""
    return gather_object([list(mine)])


def _success_rate(episodes: Sequence[Episode]) -> float:
    return fmean(accuracy(episode.task, episode) for episode in episodes)
