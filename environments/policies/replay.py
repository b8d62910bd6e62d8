"""Given texts in place of a model's: an episode that was written before is played again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from environments.seats import Conversation, Reply


class NoTextLeft(Exception):
    """The environment asks for more turns than there are texts."""


@dataclass(frozen=True)
class Replay:
    """A policy that writes the given texts, one a turn, in every conversation.

    Raises:
        NoTextLeft: where an episode goes on after the last of them.
    """

    texts: Sequence[str]

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [Reply(self._next(conversation)) for conversation in conversations]

    def _next(self, conversation: Conversation) -> str:
        number = sum(message["role"] == "assistant" for message in conversation.messages)
        if number >= len(self.texts):
            raise NoTextLeft(f"turn {number} is asked for, and there are {len(self.texts)}")
        return self.texts[number]
