"""The bare question: first views and words, no protocol, no tool; the whole reply is the answer.

A baseline: what a model answers without the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from environments.play import Policy
from environments.rendering import Renderer
from environments.seats import Conversation, framing_of
from fovea.episodes import Answer, Episode, StopReason, Turn
from fovea.ledger import phase
from fovea.tasks import Task


def play_directly(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    environment_factory: Callable[[], Any],
    renderer: Renderer | None,
    max_tokens: int = 32,
    system: str | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Episode]:
    """One single-turn episode per task, in order. `system` is the prompt that the model was released with, if any."""
    conversations, framings = [], []
    for place, task in enumerate(tasks):
        environment = environment_factory()
        content = environment.reset(**task.row())
        framings.append(framing_of(environment))
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": content})
        images = [block["image"] for block in content if block["type"] == "image"]
        ids = [] if renderer is None else renderer.prompt_ids(messages, ())
        seed = None if seeds is None else seeds[place]
        conversations.append(Conversation(task, messages, ids, images, seed=seed))
    with phase("decode"):
        replies = policy.reply(conversations, max_tokens=[max_tokens] * len(tasks))
    return [
        Episode(
            task,
            (Turn(reply.text, Answer(reply.text.strip()), None, reply.num_tokens),),
            StopReason.ANSWERED,
            framing=framing,
        )
        for task, reply, framing in zip(tasks, replies, framings, strict=True)
    ]
