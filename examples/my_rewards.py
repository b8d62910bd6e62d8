"""Rewards of your own: a function in a file, whose parameter names tell what kind it is (docs/my_reward.md)."""

from __future__ import annotations

from typing import Any

from fovea.answers import score
from fovea.episodes import Episode
from fovea.tasks import Task


def right_and_brief(task: Task, episode: Episode) -> float | None:
    """One episode at a time: a number, or None where the reward does not apply."""
    if episode.answer is None:
        return 0.0
    return score(task, episode.answer, episode.framing) / (1 + episode.num_zooms / 10)


def fewest_zooms(task: Task, episodes: list[Episode]) -> list[float]:
    """A group at a time: the rollouts of one task."""
    fewest = min(episode.num_zooms for episode in episodes)
    return [float(episode.num_zooms == fewest) for episode in episodes]


def not_too_long(completions: list[Any], **columns: Any) -> list[float]:
    """TRL's own form works as well, also async."""
    return [float(len(str(completion)) < 2000) for completion in completions]
