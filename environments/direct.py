"""The bare question: first views and words, no system prompt, no tool; the whole reply is the answer.

A baseline: what a model answers without the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from environments.play import Conversation
from environments.policies import TransformersPolicy
from environments.rendering import Renderer
from fovea.episodes import Answer, Episode, StopReason, Turn
from fovea.models import Model
from fovea.tasks import Task


def play_directly(
    model: Model,
    tasks: Sequence[Task],
    *,
    environment_factory: Callable[[], Any],
    batch_size: int = 64,
    max_tokens: int = 32,
) -> list[Episode]:
    """One single-turn greedy episode per task, in order."""
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, temperature=0.0, batch_size=batch_size)
    conversations = []
    for task in tasks:
        content = environment_factory().reset(**task.row())
        messages = [{"role": "user", "content": content}]
        images = [block["image"] for block in content if block["type"] == "image"]
        conversations.append(Conversation(task, messages, renderer.prompt_ids(messages, ()), images))
    replies = policy.reply(conversations, max_tokens=[max_tokens] * len(tasks))
    return [
        Episode(task, (Turn(reply.text, Answer(reply.text.strip()), None, len(reply.token_ids)),), StopReason.ANSWERED)
        for task, reply in zip(tasks, replies, strict=True)
    ]
