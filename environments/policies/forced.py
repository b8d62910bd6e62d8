"""Baselines of the same weights under the same prompt: the first turn is made to be a zoom, or an answer.

Always zooming and never zooming bound what deciding well is worth. What is forced is only how the turn begins; the
policy writes the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from environments.play import Policy
from environments.rendering import Renderer
from environments.seats import Conversation, Reply

OPENINGS = {"zoom": "<think></think>\n<tool_call>\n", "answer": "<think></think>\n<answer>"}
"""First tokens of a forced first turn."""


@dataclass
class ForcedPolicy:
    """A policy whose episodes all begin with the words `opening`."""

    policy: Policy
    renderer: Renderer
    opening: str

    def __post_init__(self) -> None:
        self._ids = self.renderer.tokenizer(self.opening, add_special_tokens=False).input_ids

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        is_first = [all(message["role"] != "assistant" for message in each.messages) for each in conversations]
        begun = [self._begun(each) if first else each for each, first in zip(conversations, is_first, strict=True)]
        limits = [
            max(1, limit - len(self._ids)) if first else limit
            for limit, first in zip(max_tokens, is_first, strict=True)
        ]
        replies = self.policy.reply(begun, max_tokens=limits)
        for conversation, continued in zip(conversations, begun, strict=True):
            conversation.cache = continued.cache
        return [self._whole(reply) if first else reply for reply, first in zip(replies, is_first, strict=True)]

    def _begun(self, conversation: Conversation) -> Conversation:
        return replace(conversation, token_ids=[*conversation.token_ids, *self._ids])

    def _whole(self, reply: Reply) -> Reply:
        return replace(
            reply,
            text=self.opening + reply.text,
            token_ids=(*self._ids, *reply.token_ids),
            logprobs=None if reply.logprobs is None else (*[0.0] * len(self._ids), *reply.logprobs),
        )
