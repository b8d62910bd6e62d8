"""A solution as a trace: it is played again through the real loop, so that the trace is what a rollout would be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from environments.play import Conversation, Limits, Reply, play
from environments.traces import unfit
from fovea.answers import written
from fovea.episodes import Episode
from fovea.tasks import Task
from synthesis.agent.solving import ZOOM, GivenUp, Solution


@dataclass
class Replay:
    """A policy that writes a solution: its zooms, then the reference in its own words."""

    solution: Solution

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [Reply(self._turn(conversation)) for conversation in conversations]

    def _turn(self, conversation: Conversation) -> str:
        number = sum(message["role"] == "assistant" for message in conversation.messages)
        thought = f"<think>{self.solution.thoughts[number]}</think>"
        if number == len(self.solution.zooms):
            return f"{thought}\n<answer>{written(conversation.task, conversation.framing)}</answer>"
        call = json.dumps({"name": ZOOM, "arguments": self.solution.zooms[number].arguments}, ensure_ascii=False)
        return f"{thought}\n<tool_call>\n{call}\n</tool_call>"


def played(task: Task, solution: Solution, make_environment: Callable[[], Any], limits: Limits) -> Episode:
    """The episode of a solution.

    Raises:
        GivenUp: if the environment or the scoring rule does not take it, with what they say.
    """
    [episode] = play(Replay(solution), [task], environment_factory=make_environment, limits=limits)
    if (reason := unfit(episode)) is not None:
        raise GivenUp(f"not fit: {reason}")
    return episode
