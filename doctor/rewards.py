"""Checks of rewards: on sample episodes that a reward should tell apart, and on episodes of the tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doctor.environment import Subject
from doctor.findings import Note, evenly
from fovea.episodes import Episode, NoAction, StopReason, Turn
from rewards.check import remarks, sample_episodes, sample_task
from rewards.registry import Reward, RewardError, RewardKind, load_rewards
from rewards.totals import weighted_totals
from rewards.trl_adapter import score


def blind_rewards(note: Note, names: Sequence[str], weights: Sequence[float] | None) -> list[Reward]:
    """Rewards that, alone or together, pay right, wrong, malformed and gaming episodes of a sample task alike."""
    rewards = load_rewards(names)
    if weights is not None and len(weights) != len(names):
        note.fail(f"{len(weights)} reward_weights for {len(names)} reward_funcs {list(names)}", "give one for each")
        return rewards
    total = _weighted_total(note, dict(zip(names, rewards, strict=True)), weights or [1.0] * len(names))
    if total is None:
        return rewards
    command = f"fovea rewards test {' '.join(names)}"
    problems = remarks(total)
    if len(set(total.values())) < 2:
        note.fail(problems[0], command)
        return rewards
    for problem in problems:
        note.warn(f"in all, {problem}", command)
    right, wrong = total["right, zoomed to the target"], total["wrong, no zoom"]
    note.ok(f"{', '.join(names)}: in all {right:.2f} for a right answer after a zoom, {wrong:.2f} for a wrong one")
    return rewards


def _weighted_total(note: Note, rewards: dict[str, Reward], weights: Sequence[float]) -> dict[str, float] | None:
    """The weighted sum of all rewards for each sample episode; None if one of them cannot be tried on a sample task."""
    episodes = sample_episodes(sample_task())
    payments: list[list[float | None]] = []
    for name, reward in rewards.items():
        try:
            paid = score(reward, list(episodes.values()))
        except (RewardError, ValueError) as error:
            note.warn(f"cannot be tried on a sample task: {error}", f"fovea rewards test {name}")
            continue
        if len(set(paid)) < 2:
            note.warn(f"{name} pays all sample episodes {paid[0]}: does it see what it is given?",
                      f"fovea rewards test {name}")  # fmt: skip
        payments.append(paid)
    if len(payments) < len(rewards):
        return None
    totals = np.nan_to_num(weighted_totals(np.array(payments, dtype=float), weights))
    return dict(zip(episodes, totals.tolist(), strict=True))


def failing_rewards(note: Note, subject: Subject, rewards: Sequence[Reward]) -> None:
    """Rewards that raise on episodes of real tasks: right ones, by the tasks' own references, and silent ones."""
    tasks = evenly(subject.tasks, 4)
    episodes: list[Episode] = subject.play(tasks)
    silent = [Episode(task, (Turn("", NoAction(), None, 1, False),), StopReason.NO_ACTION) for task in tasks]
    for reward in rewards:
        if reward.kind is RewardKind.MODEL:
            note.warn(
                f"{reward.name} is a reward model, which only the training runs",
                "train one step to see that it loads (--max_steps 1)",
            )
            continue
        score(reward, silent)
        paid = score(reward, episodes)
        amounts = ", ".join("not applicable" if value is None else f"{value:.2f}" for value in paid)
        note.ok(f"{reward.name} pays {len(episodes)} right episodes of your tasks {amounts}")
