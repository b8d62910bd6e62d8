"""The bare question: first views and words, no protocol, no tool; the whole reply, thoughts left out, is the answer.

A baseline: what a model answers without the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from environments.play import Policy
from environments.rendering import Renderer
from environments.seats import Conversation, Reply, framing_of
from fovea.boxes import Framing
from fovea.episodes import Answer, Episode, NoAction, StopReason, TokenRecord, Turn
from fovea.ledger import phase
from fovea.tasks import Task


def play_directly(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    environment_factory: Callable[[], Any],
    renderer: Renderer | None,
    max_tokens: int,
    system: str | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Episode]:
    """One single-turn episode of at most `max_tokens` per task, in order.

    `system` is the prompt that the model was released with, if any. A reply that was cut is no answer.
    """
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
        _episode(conversation, reply, framing, renderer)
        for conversation, reply, framing in zip(conversations, replies, framings, strict=True)
    ]


def _episode(conversation: Conversation, reply: Reply, framing: Framing | None, renderer: Renderer | None) -> Episode:
    action = NoAction() if reply.is_truncated else Answer(reply.text.rpartition("</think>")[2].strip())
    tokens = num_image_tokens = None
    if renderer is not None:
        prompt_ids, written_ids = tuple(conversation.token_ids), tuple(reply.token_ids)
        tokens = TokenRecord(prompt_ids, written_ids, (1,) * len(written_ids), tuple(conversation.images))
        num_image_tokens = prompt_ids.count(renderer.image_token_id)
    return Episode(
        conversation.task,
        (Turn(reply.text, action, None, reply.num_tokens),),
        StopReason.TURN_TOKENS if reply.is_truncated else StopReason.ANSWERED,
        tokens,
        framing=framing,
        num_image_tokens=num_image_tokens,
    )
