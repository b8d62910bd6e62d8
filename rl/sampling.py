"""The tasks of each step: TRL's dataset holds their numbers, and the epoch alone makes their order.

With --task_selection difficulty the order is not used: tasks are drawn by how often they were answered rightly of late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from rewards.totals import weighted_totals

LEAST = 0.05
"""Weight of a task that is always or never answered rightly; one that is right half of the time weighs 0.5."""


def numbered(numbers: range) -> Dataset:
    """TRL's dataset of tasks by their numbers. The environment writes the real prompt."""
    return Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "task_index": n} for n in numbers])


class EpochSampler(RepeatSampler):
    """TRL's sampler, its order made by the epoch alone: a continued training meets the prompts it would have met."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(cast(int, self.seed) + epoch)


class EpochCallback(TrainerCallback):
    """Tells a sampler its epoch: Accelerate does not reach it in an epoch that several processes go on with."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch + 1e-6))


class TaskHistory:
    """The recent success rate of each task, and draws of tasks by it.

    A task weighs the standard deviation of one of its answers, sqrt(p (1 - p)), but at least `LEAST`: what is sometimes
    right teaches most, and what never or always is comes back now and then. One that was not played yet counts as right
    half of the time, so that all are met early.
    """

    def __init__(self, num_tasks: int) -> None:
        self.rates = np.full(num_tasks, np.nan)

    def note(self, played: Iterable[tuple[int, float]]) -> None:
        """Takes success rates of tasks by their numbers, each for as much as all before it."""
        for number, rate in played:
            known = self.rates[number]
            self.rates[number] = rate if np.isnan(known) else (known + rate) / 2

    @property
    def weights(self) -> np.ndarray:
        rates = np.where(np.isnan(self.rates), 0.5, self.rates)
        return np.maximum(np.sqrt(rates * (1 - rates)), LEAST)

    def draw(self, number: int, rng: np.random.Generator, *, without: Collection[int] = ()) -> list[int]:
        """The numbers of different tasks, at most so many, none of `without`."""
        weights = self.weights
        weights[list(without)] = 0
        number = min(number, int(np.count_nonzero(weights)))
        return (
            rng.choice(len(weights), size=number, replace=False, p=weights / weights.sum()).tolist() if number else []
        )

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint: a rate for each task, None where it was not played."""
        return {"success_rates": [None if np.isnan(rate) else float(rate) for rate in self.rates]}

    def load(self, state: dict[str, Any]) -> None:
        self.rates = np.array([np.nan if rate is None else rate for rate in state["success_rates"]])


def has_signal(paid: torch.Tensor, weights: Sequence[float], *, each: bool = False) -> bool:
    """True unless all rollouts of a group were paid the same, which would make every advantage 0.

    `paid` is [rollouts, rewards]. What counts is the weighted sum, or with `each` (TRL's normalize_then_sum) every
    reward that has a weight.
    """
    values = paid.double().cpu().numpy().T
    rows = [row for row, weight in zip(values, weights, strict=True) if weight] if each else []
    return any(np.ptp(row[~np.isnan(row)]) > 0 for row in rows or [weighted_totals(values, weights)] if _is_known(row))


def _is_known(values: np.ndarray) -> bool:
    return not np.isnan(values).all()
