"""Rewards in the form that TRL's trainers call, and TRL's own kind of reward on episodes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fovea.episodes import Episode
from fovea.tasks import Task
from rewards.registry import Reward, RewardError, RewardKind, score_episodes


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


def score(reward: Reward, episodes: Sequence[Episode]) -> list[float | None]:
    """What any reward but a model pays each episode, without a trainer; TRL's own kind gets texts instead of token ids.

    Raises:
        RewardError: if the function raises or returns nonsense.
        ValueError: for a reward model, which only a trainer can run.
    """
    if reward.kind is RewardKind.MODEL:
        raise ValueError(f"{reward.name} is a reward model, which only a training runs: name reward functions")
    if reward.kind is not RewardKind.TRL:
        return score_episodes(reward, episodes)
    rows = [columns(episode.task) for episode in episodes]
    named = {name: [row[name] for row in rows] for name in rows[0]}
    prompts, completions = named.pop("prompt"), [messages_of(episode) for episode in episodes]
    try:
        paid = reward.function(prompts=prompts, completions=completions, episode=list(episodes), **named)
        paid = asyncio.run(_awaited(paid)) if inspect.isawaitable(paid) else paid
    except Exception as error:
        raise RewardError(f"reward {reward.name} raised {type(error).__name__}: {error}") from error
    if len(paid) != len(episodes):
        raise RewardError(f"reward {reward.name} returned {len(paid)} values for {len(episodes)} episodes")
    return [None if value is None else float(value) for value in paid]


async def _awaited(value: Any) -> Any:
    return await value


def columns(task: Task) -> dict[str, Any]:
    """What TRL's own kind of reward function receives about a task, beside the completions."""
    prompt = [{"role": "user", "content": task.prompt}]
    return {"prompt": prompt, "question": task.question, "answer": task.answer, "choices": list(task.choices)}


def messages_of(episode: Episode) -> list[dict[str, str]]:
    """The chat messages of an episode after its prompt, texts only: pixels are not gathered across processes."""
    messages = []
    for turn in episode.turns:
        messages.append({"role": "assistant", "content": turn.text})
        if turn.observation is not None:
            messages.append({"role": "tool", "content": turn.observation.text})
    return messages
