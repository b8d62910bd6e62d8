"""Tools that are refused look as ever; without tools nothing speaks of them."""

from typing import ClassVar

import pytest
from PIL import Image
from transformers.utils import get_json_schema

from environments.play import play
from environments.probes.tools import REFUSAL, with_tools
from environments.prompts import VIEWS_PROMPT
from environments.seats import Limits, Reply, begin, tools_of
from fovea.config import ConfigError
from fovea.episodes import StopReason
from fovea.tasks import Task

TASK = Task("t", (Image.new("RGB", (64, 64)),), "How many?", "3")


class Own:
    """A user's environment: a tool of each kind."""

    system_prompt = "Use your tools."
    used: ClassVar[list[str]] = []

    def reset(self, **row):
        return [{"type": "text", "text": row["question"]}]

    def look(self, place: str, times: int = 1) -> str:
        """Looks.

        Args:
            place: Where.
            times: How often.
        """
        self.used.append(place)
        return "a bird"

    @staticmethod
    def add(first: int, second: int) -> int:
        """Adds.

        Args:
            first: One number.
            second: Another.
        """
        return first + second

    async def wait(self) -> str:
        """Waits."""
        return "done"

    def _private(self):
        return self.look("inside")


class Caller:
    def __init__(self, *calls):
        self.calls = calls

    def reply(self, conversations, *, max_tokens):
        turns = sum(message["role"] == "assistant" for message in conversations[0].messages)
        texts = [f"<tool_call>\n{call}\n</tool_call>" for call in self.calls] + ["<answer>3</answer>"]
        return [Reply(texts[turns])]


CALLS = (
    '{"name": "look", "arguments": {"place": "left"}}',
    '{"name": "add", "arguments": {"first": 1, "second": 2}}',
    '{"name": "wait", "arguments": {}}',
)


def test_refused_tools_are_described_as_ever_and_do_nothing():
    environment, plain = with_tools(Own, "refused")(), Own()
    for name, tool in tools_of(plain).items():
        assert get_json_schema(tools_of(environment)[name]) == get_json_schema(tool)
    assert begin(environment, TASK, None).messages == begin(plain, TASK, None).messages
    Own.used.clear()
    [episode] = play(Caller(*CALLS), [TASK], environment_factory=with_tools(Own, "refused"), limits=Limits(6))
    assert [turn.observation.text for turn in episode.turns[:-1]] == [REFUSAL] * 3 and not Own.used
    assert (episode.faults, episode.stop_reason) == ((), StopReason.ANSWERED)
    [plain_episode] = play(Caller(*CALLS), [TASK], environment_factory=Own, limits=Limits(6))
    assert [turn.observation.text for turn in plain_episode.turns[:-1]] == ["a bird", "3", "done"]


def test_without_tools_none_is_shown_or_called():
    environment = with_tools(Own, "absent")()
    conversation = begin(environment, TASK, None)
    assert conversation.tools == () and conversation.messages[0]["content"] == VIEWS_PROMPT
    Own.used.clear()
    [episode] = play(Caller(CALLS[0]), [TASK], environment_factory=with_tools(Own, "absent"), limits=Limits(6))
    assert "no such tool" in episode.turns[0].observation.text and not Own.used


def test_other_modes_are_refused():
    assert with_tools(Own, "true") is Own
    with pytest.raises(ValueError, match="refused, absent"):
        with_tools(Own, "none")


class Bare:
    """An environment without a tool."""

    def reset(self, **row):
        return [{"type": "text", "text": row["question"]}]


@pytest.mark.parametrize("mode", ["refused", "absent"])
def test_an_environment_without_tools_is_refused(mode):
    with pytest.raises(ConfigError, match="Bare has no tools"):
        with_tools(Bare, mode)()
