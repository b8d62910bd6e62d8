"""Rewards of published systems, from their papers and code; `configs/rewards` weighs them as those systems do.

Right and wrong are told by our accuracy rules where a system asks a judge model: from 0.5 on an answer is right.
"""

from __future__ import annotations

from collections.abc import Sequence

from fovea.episodes import Episode
from fovea.tasks import Task
from rewards.accuracy import accuracy
from rewards.looking import format

CURIOSITY_RATE = 0.3
"""Pixel-Reasoner: the share of a group's rollouts that should zoom."""
CURIOSITY_SCALE = 0.25
EXTRA_CALL_COST = 0.05


def is_right(task: Task, episode: Episode) -> bool:
    return accuracy(task, episode) >= 0.5


def chain_of_focus_paper(task: Task, episodes: Sequence[Episode]) -> list[float]:
    """c (d + z (1 - 0.2 g)) + 0.1 (1 - c) f, Chain-of-Focus (arXiv 2505.15436) as its paper has it.

    c: right, d: without a zoom, z: with one, f: well formed; g: some rollout of the group was right without a zoom.
    """
    some_direct = _some_right_without_a_zoom(task, episodes)
    return [
        (0.8 if episode.num_zooms and some_direct else 1.0) if is_right(task, episode) else 0.1 * format(task, episode)
        for episode in episodes
    ]


def chain_of_focus_code(task: Task, episodes: Sequence[Episode]) -> list[float]:
    """As Chain-of-Focus's released code has it, which also pays 0.5 for a zoom that led to a wrong answer.

    Where no rollout of the group was right, the plain sum: 0.9 accuracy + 0.1 format.
    """
    if not any(is_right(task, episode) for episode in episodes):
        return [0.1 * format(task, episode) for episode in episodes]
    some_direct = _some_right_without_a_zoom(task, episodes)

    def paid(episode: Episode) -> float:
        if is_right(task, episode):
            return 0.8 if episode.num_zooms and some_direct else 1.0
        return 0.5 if episode.num_zooms else 0.1 * format(task, episode)

    return [paid(episode) for episode in episodes]


def _some_right_without_a_zoom(task: Task, episodes: Sequence[Episode]) -> bool:
    return any(is_right(task, episode) and not episode.num_zooms for episode in episodes)


def format_fault(task: Task, episode: Episode) -> float:
    """-1.0 for an episode out of format, else 0.0 (DeepEyes)."""
    return format(task, episode) - 1.0


def right_with_a_zoom(task: Task, episode: Episode) -> float:
    """1.0 for a right answer after at least one zoom (DeepEyes)."""
    return float(episode.num_zooms > 0 and is_right(task, episode))


def curiosity(task: Task, episodes: Sequence[Episode]) -> list[float]:
    """Pixel-Reasoner's bonus for a rollout that zooms: larger if few of its group do, smaller for each further zoom."""
    rate = sum(episode.num_zooms > 0 for episode in episodes) / len(episodes)
    bonus = max(CURIOSITY_RATE - rate, 0) / 2 / rate * CURIOSITY_SCALE if rate else 0.0
    return [bonus - EXTRA_CALL_COST * (episode.num_zooms - 1) if episode.num_zooms else 0.0 for episode in episodes]
