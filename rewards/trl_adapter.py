"""Rewards in the form that TRL's trainers call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rewards.registry import Reward, RewardKind, score_episodes


def to_trl(reward: Reward) -> Callable | str:
    """A function `(prompts, completions, episode=…, **columns) -> list`, or a reward model's id.

    The trainer passes each rollout's Episode in the column `episode`. TRL's own functions pass through unchanged.
    """
    if reward.kind in (RewardKind.TRL, RewardKind.MODEL):
        return reward.function

    def scored(prompts: list, completions: list, *, episode: list, **columns: Any) -> list[float | None]:
        return score_episodes(reward, episode)

    scored.__name__ = reward.name
    return scored
