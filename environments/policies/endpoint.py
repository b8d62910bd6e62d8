"""A policy behind an OpenAI-compatible endpoint: any model that can be asked, with images as PNG and tools as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers.utils import get_json_schema

from environments.play import Sampling
from environments.policies.turns import ThreadedTurns
from environments.seats import Conversation, Reply
from fovea.endpoint import ChatEndpoint, data_url, is_whole

TOOLS = (
    "\n\n# Tools\n\nCall a tool by writing, in place of an answer:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <arguments as JSON>}\n</tool_call>\nThere are:\n<tools>\n'
)
"""Said before the tools' schemas; what is written is read by the same grammar as any policy's."""


@dataclass
class EndpointPolicy(ThreadedTurns):
    """Samples turns from an endpoint. Turns carry no token ids: they can be judged, not trained on."""

    endpoint: ChatEndpoint
    sampling: Sampling

    @property
    def num_threads(self) -> int:  # type: ignore[override]
        return self.endpoint.num_connections

    def request(self, conversation: Conversation, max_tokens: int) -> Callable[[], Reply]:
        return partial(self._reply, conversation, max_tokens)

    def _reply(self, conversation: Conversation, limit: int) -> Reply:
        options: dict[str, Any] = {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k or -1,  # what is not said servers fill in from the released generation_config
            "repetition_penalty": 1.0,
            "max_tokens": limit,
        }
        if (seed := conversation.turn_seed) is not None:
            options["seed"] = seed
        completion = self.endpoint.chat(messages_of(conversation), **options)
        return Reply(completion["text"], is_truncated=not is_whole(completion), num_written=completion["num_tokens"])


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form; what a tool answered comes from the user, who alone may show images there."""
    schemas = [json.dumps(get_json_schema(tool)) for tool in conversation.tools]
    listed = TOOLS + "\n".join(schemas) + "\n</tools>" if schemas else ""
    messages = []
    for message in conversation.messages:
        role = "user" if message["role"] == "tool" else message["role"]
        content = message["content"]
        if role == "system":
            content += listed
        elif isinstance(content, list):
            content = [_part(block) for block in content]
        messages.append({"role": role, "content": content})
    return messages


def _part(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "image":
        return {"type": "image_url", "image_url": {"url": data_url(block["image"])}}
    return {"type": "text", "text": block["text"]}
