"""The reward for a right answer, by the rule of its kind (`fovea.answers`). No judge model is needed."""

from __future__ import annotations

from fovea.answers import score
from fovea.episodes import Episode
from fovea.tasks import Task


def accuracy(task: Task, episode: Episode) -> float:
    """1.0 for a right final answer, 0.0 for a wrong or missing one; lists and boxes score in between (F1, IoU)."""
    return score(task, episode.answer, episode.framing) if episode.answer is not None else 0.0
