"""Rewards in the form that TRL's trainers call, and TRL's own kind of reward on episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fovea.awaiting import awaited
from fovea.episodes import Episode
from fovea.plugins import taken
from fovea.tasks import Task
from rewards.registry import TRY_IT, Reward, RewardError, RewardKind, is_finite, plain, required, score_episodes


def to_trl(reward: Reward) -> Callable | str:
    """A function `(prompts, completions, episode=…, **columns) -> list`, or a reward model's id.

    The trainer passes each rollout's Episode in the column `episode`. What one of TRL's own functions raises names it.
    """
    if reward.kind is RewardKind.MODEL:
        return reward.function
    if reward.kind is RewardKind.TRL:
        from trl.trainer.utils import is_async_callable

        paid = _named_async(reward) if is_async_callable(reward.function) else _named(reward)
        paid.__name__ = reward.name
        return paid

    def scored(prompts: list, completions: list, *, episode: list, **columns: Any) -> list[float | None]:
        return score_episodes(reward, episode)

    scored.__name__ = reward.name
    return scored


def _named(reward: Reward) -> Callable:
    def paid(**arguments: Any) -> list[float | None]:
        with _naming(reward, arguments):
            return _checked(reward, reward.function(**taken(reward.function, arguments)), arguments)

    return paid


def _named_async(reward: Reward) -> Callable:
    async def paid(**arguments: Any) -> list[float | None]:
        with _naming(reward, arguments):
            return _checked(reward, await reward.function(**taken(reward.function, arguments)), arguments)

    return paid


@contextmanager
def _naming(reward: Reward, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turns an error inside into a RewardError that names the reward and the tasks it was asked about."""
    try:
        yield
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward {reward.name} raised {type(error).__name__} on {_asked(arguments)}: {error}. {TRY_IT}"
        ) from error


def _asked(arguments: Mapping[str, Any], row: int | None = None) -> str:
    """The input of a reward in words: tasks and answers if episodes are known, else the number of completions."""
    episodes = arguments.get("episode")
    if not episodes:
        return f"{len(arguments.get('completions') or ())} completions"
    shown = episodes if row is None else [episodes[row]]
    ids = list(dict.fromkeys(episode.task.id for episode in shown))
    return f"task{'s' if len(ids) > 1 else ''} {', '.join(ids[:4])}{', …' if len(ids) > 4 else ''}"


def _checked(reward: Reward, paid: Any, arguments: Mapping[str, Any]) -> list[float | None]:
    """One finite number or None for each completion.

    Raises:
        RewardError: for anything else, with the task.
    """
    number = len(arguments["completions"])
    if not isinstance(paid, (list, tuple)) and not hasattr(paid, "tolist"):
        raise RewardError(f"reward {reward.name} returned {paid!r}: it must be a list of {number} numbers")
    values = list(paid.tolist() if hasattr(paid, "tolist") else paid)
    if len(values) != number:
        raise RewardError(
            f"reward {reward.name} returned {len(values)} values for {number} completions: return one for each"
        )
    for row, value in enumerate(values):
        value = plain(value)
        if value is not None and not is_finite(value):
            raise RewardError(
                f"reward {reward.name} returned {value!r} on {_asked(arguments, row)}: "
                "it must be a finite number, or None"
            )
        values[row] = None if value is None else float(value)
    return values


def score(reward: Reward, episodes: Sequence[Episode]) -> list[float | None]:
    """Payments of any reward but a model, without a trainer. TRL's own kind receives texts instead of token ids.

    Raises:
        RewardError: if the function raises or returns nonsense.
        ValueError: for a reward model, which only a trainer can run.
    """
    if reward.kind is RewardKind.MODEL:
        raise ValueError(f"{reward.name} is a reward model, which only a training runs: name reward functions")
    if reward.kind is not RewardKind.TRL:
        return score_episodes(reward, episodes)
    check_columns([reward], [episode.task for episode in episodes])
    rows = columns([episode.task for episode in episodes])
    named = {name: [row[name] for row in rows] for name in rows[0]}
    prompts, completions = named.pop("prompt"), [messages_of(episode) for episode in episodes]
    function: Any = to_trl(reward)
    ids = [list(episode.tokens.completion_ids) if episode.tokens else [] for episode in episodes]
    trainer = {"completion_ids": ids, "trainer_state": None, "log_extra": _unlogged, "log_metric": _unlogged}
    paid = function(prompts=prompts, completions=completions, episode=list(episodes), **trainer, **named)
    return awaited(paid)


def _unlogged(*values: Any) -> None:
    """Takes what a reward logs where no trainer is."""


TAKEN = frozenset(
    ("prompt", "prompts", "completion", "completions", "completion_ids", "episode", "task", "environment",
     "environments", "tools", "trainer_state", "log_extra", "log_metric")
)  # fmt: skip
"""Names under which a reward function receives something of the trainer's, whatever columns a row has."""


def check_columns(rewards: Sequence[Reward], tasks: Sequence[Task]) -> None:
    """Raises ValueError for a reward in TRL's form that asks for a column which no row has."""
    own = {name for row in columns(tasks) for name in row} - TAKEN
    for reward in rewards:
        lacking = [] if reward.kind is not RewardKind.TRL else sorted({*required(reward.function)} - own - TAKEN)
        if lacking:
            raise ValueError(
                f"reward {reward.name} asks for {', '.join(lacking)}, a column that no row has: give it a default, or "
                f"read one of {', '.join(sorted(own))}"
            )


def columns(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Columns that TRL's own kind of reward function receives beside the completions: every column of the rows.

    All rows have the same columns, None where a task has none.
    """
    names = dict.fromkeys(name for task in tasks for name in task.columns if name not in TAKEN)
    return [
        {name: task.columns.get(name) for name in names}
        | {"prompt": [{"role": "user", "content": task.prompt}], **task.fields()}
        for task in tasks
    ]


def messages_of(episode: Episode) -> list[dict[str, str]]:
    """The chat messages of an episode after its prompt, texts only: pixels are not gathered across processes."""
    messages = []
    for turn in episode.turns:
        messages.append({"role": "assistant", "content": turn.text})
        if turn.observation is not None:
            messages.append({"role": "tool", "content": turn.observation.text})
    return messages
