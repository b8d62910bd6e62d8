"""A solution as a trace: it is played again through the real loop, so that the trace is what a rollout would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from environments.play import play
from environments.policies.replay import NoTextLeft, Replay
from environments.seats import Limits
from environments.traces import unfit
from fovea.answers import written
from fovea.episodes import Episode
from fovea.tasks import Task
from synthesis.agent.solving import ZOOM, GivenUp, Solution


def turns_of(task: Task, solution: Solution) -> list[str]:
    """The turns of a solution: its zooms, then the reference in its own words."""
    thoughts = [f"<think>{thought}</think>" for thought in solution.thoughts]
    calls = [json.dumps({"name": ZOOM, "arguments": zoom.arguments}, ensure_ascii=False) for zoom in solution.zooms]
    zooms = [
        f"{thought}\n<tool_call>\n{call}\n</tool_call>" for thought, call in zip(thoughts[:-1], calls, strict=True)
    ]
    return [*zooms, f"{thoughts[-1]}\n<answer>{written(task)}</answer>"]


def played(task: Task, solution: Solution, make_environment: Callable[[], Any], limits: Limits) -> Episode:
    """The episode of a solution.

    Raises:
        GivenUp: if the environment or the scoring rule does not take it, with what they say.
    """
    policy = Replay(turns_of(task, solution))
    try:
        [episode] = play(policy, [task], environment_factory=make_environment, limits=limits)
    except NoTextLeft as error:
        raise GivenUp(f"not fit: the episode goes on after the answer ({error})") from error
    if (reason := unfit(episode)) is not None:
        raise GivenUp(f"not fit: {reason}")
    return episode
