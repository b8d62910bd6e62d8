"""Rewards of rollouts, in the form in which runs keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import torch

from fovea.episodes import Episode
from fovea.tasks import Task
from rewards.registry import Reward, RewardKind
from rewards.totals import weighted_totals


@dataclass(frozen=True)
class Payment:
    """Each reward of a rollout (None: it does not apply), their weighted sum, and the advantage."""

    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    advantage: float | None = None


def payments(
    rewards: torch.Tensor, names: Sequence[str], weights: Sequence[float], advantages: torch.Tensor
) -> list[Payment]:
    """The payments of rollouts from `rewards` [rollouts, rewards], NaN where one does not apply, and advantages."""
    totals = weighted_totals(rewards.T.double().cpu().numpy(), weights)
    return [
        Payment(dict(zip(names, map(_known, row), strict=True)), _known(float(total)), _known(advantage))
        for row, total, advantage in zip(rewards.tolist(), totals, advantages.tolist(), strict=True)
    ]


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def environment_rewards(environment: Any) -> list[Reward]:
    """The reward that an environment pays by its own `get_reward`, if it has one."""
    if not hasattr(environment, "get_reward"):
        return []

    def paid(task: Task, episode: Episode) -> float | None:
        return episode.environment_reward

    return [Reward(type(environment).__name__, RewardKind.EPISODE, paid)]
