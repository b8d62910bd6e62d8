"""Reward functions by name, and what kind each one is, told by its parameters.

Four kinds plug in: per episode `(task, episode) -> float | None`, per group `(task, episodes) -> list`, TRL's own
`(prompts, completions, **columns) -> list` (sync or async), and the id of a reward model.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fovea.awaiting import awaited
from fovea.episodes import Episode
from fovea.plugins import load_object
from fovea.tasks import Task
from rewards import accuracy, focusing, judge, looking

REWARDS: dict[str, Callable] = {
    "accuracy": accuracy.accuracy,
    "format": looking.format,
    "zoom_coverage": looking.zoom_coverage,
    "zoom_iou": looking.zoom_iou,
    "zoom_cost": looking.zoom_cost,
    "focus_precision": focusing.focus_precision,
    "focus_recall": focusing.focus_recall,
    "focus_f1": focusing.focus_f1,
    "chain_format": focusing.chain_format,
    "image_cost": focusing.image_cost,
    "judge": judge.judge,
}


class RewardKind(StrEnum):
    EPISODE = "episode"
    GROUP = "group"
    TRL = "trl"
    MODEL = "model"


class RewardError(RuntimeError):
    """A reward function that raised or returned nonsense; names the reward and the episode."""


TRY_IT = "Mend it; `fovea rewards test` tries it on made-up episodes"
"""The cure for a reward that raises."""


@dataclass(frozen=True)
class Reward:
    """A reward function under the name it is logged by; for a reward model `function` is its id."""

    name: str
    kind: RewardKind
    function: Any


def load_reward(name: str) -> Reward:
    """The reward called `name`: ours, `module:function`, `./file.py:function`, or a reward model's id or folder.

    Raises:
        ValueError: if there is no such reward, or its parameters do not tell its kind.
    """
    if name in REWARDS:
        return Reward(name, kind_of(REWARDS[name]), REWARDS[name])
    if name.endswith(".py"):
        raise ValueError(f"reward {name!r} names a file: add the function in it, as {name}:my_reward")
    if ":" not in name and ("/" in name or (Path(name) / "config.json").exists()):
        return Reward(Path(name).name, RewardKind.MODEL, name)
    if ":" not in name and "." not in name:
        raise ValueError(f"no reward is called {name!r}: use one of {', '.join(REWARDS)}, or ./file.py:function")
    function = load_object(name)
    return Reward(re.split("[:.]", name)[-1], kind_of(function), function)


def load_rewards(names: Sequence[str]) -> list[Reward]:
    """The rewards of these names.

    Raises:
        ValueError: also if two of them would be logged under one name.
    """
    rewards = [load_reward(name) for name in names]
    known: dict[str, str] = {}
    for name, reward in zip(names, rewards, strict=True):
        if reward.name in known:
            raise ValueError(f"{known[reward.name]} and {name} would both be logged as {reward.name!r}: rename one")
        known[reward.name] = name
    return rewards


def kind_of(function: Callable) -> RewardKind:
    """The kind of a reward function, by its parameter names.

    Raises:
        ValueError: if they fit none, or more than one.
    """
    names = set(inspect.signature(function).parameters)
    fits = {
        RewardKind.EPISODE: "episode" in names,
        RewardKind.GROUP: "episodes" in names,
        RewardKind.TRL: bool({"prompts", "completions", "completion_ids"} & names),
    }
    kinds = [kind for kind, fit in fits.items() if fit]
    shown = f"{getattr(function, '__name__', function)}({', '.join(sorted(names))})"
    if len(kinds) == 1:
        unknown = sorted({*required(function)} - {"task", "episode", "episodes"})
        if unknown and kinds[0] is not RewardKind.TRL:
            given = "task and episodes" if kinds[0] is RewardKind.GROUP else "task and episode"
            raise ValueError(f"{shown} asks for {', '.join(unknown)}: it is given {given}, by these names")
        _check_call(function, kinds[0])
        return kinds[0]
    problem = "fits several kinds of reward" if kinds else "fits no kind of reward"
    raise ValueError(
        f"{shown} {problem}: take (task, episode) for one episode, (task, episodes) for a group, "
        "or (prompts, completions, **kwargs) as in TRL"
    )


def _check_call(function: Callable, kind: RewardKind) -> None:
    """Raises ValueError for a function that cannot be called by the names of its parameters.

    A decorator's own parameters may have others than those that it shows (`functools.wraps`).
    """
    given = ("prompts", "completions") if kind is RewardKind.TRL else ("task", "episode", "episodes")
    names = {*inspect.signature(function).parameters, *required(function)}
    own = inspect.signature(function, follow_wrapped=False)
    try:
        own.bind_partial(**{name: None for name in given if name in names})
    except TypeError as error:
        raise ValueError(
            f"{getattr(function, '__name__', function)}{own} cannot be called by the names of its parameters "
            f"({error}): let its decorator pass all arguments on"
        ) from None


def required(function: Callable) -> list[str]:
    """The parameters that a function has to be given."""
    parameters = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variable]


def score_episodes(reward: Reward, episodes: Sequence[Episode]) -> list[float | None]:
    """Payments of an EPISODE or GROUP reward, one for each episode; consecutive episodes of one task are a group.

    Raises:
        RewardError: if the function raises or returns anything but finite numbers or None.
    """
    if reward.kind is RewardKind.EPISODE:
        return [_number(reward, episode, _call(reward, episode.task, episode)) for episode in episodes]
    values: list[float | None] = []
    for group in _groups(episodes):
        paid = _call(reward, group[0].task, group)
        paid = paid.tolist() if hasattr(paid, "tolist") else paid
        if not isinstance(paid, (list, tuple)) or len(paid) != len(group):
            raise RewardError(f"group reward {reward.name} must return {len(group)} values, not {paid!r}")
        values += [_number(reward, episode, value) for episode, value in zip(group, paid, strict=True)]
    return values


def _groups(episodes: Sequence[Episode]) -> list[list[Episode]]:
    groups: list[list[Episode]] = []
    for episode in episodes:
        if groups and groups[-1][0].task is episode.task:
            groups[-1].append(episode)
        else:
            groups.append([episode])
    return groups


def _call(reward: Reward, task: Task, subject: Any) -> Any:
    """Calls the function with its parameters by name. Its errors are raised with its name and the task."""
    arguments = {"task": task, "episode": subject, "episodes": subject}
    names = inspect.signature(reward.function).parameters
    try:
        value = reward.function(**{name: value for name, value in arguments.items() if name in names})
        return awaited(value)
    except Exception as error:
        answer = subject.answer if isinstance(subject, Episode) else [episode.answer for episode in subject]
        raise RewardError(
            f"reward {reward.name} raised {type(error).__name__} on task {task.id} (the model answered {answer!r}): "
            f"{error}. {TRY_IT}"
        ) from error


def plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's own; anything else as it is."""
    is_scalar = hasattr(value, "item") and getattr(value, "shape", None) in ((), (1,))
    return value.item() if is_scalar else value


def is_finite(value: Any) -> bool:
    """Returns True for a finite number of Python."""
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _number(reward: Reward, episode: Episode, value: Any) -> float | None:
    if value is None:
        return None
    if is_finite(value := plain(value)):
        return float(value)
    raise RewardError(
        f"reward {reward.name} returned {value!r} on task {episode.task.id}: it must be a finite number, or None"
    )
