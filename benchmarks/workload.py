"""Scripted rollouts of exact lengths, for stock TRL and Fovea alike: what is sampled is fixed, all else is real.

Every forward of a sampled token is made, its logits are computed and a token is drawn from them; only then all but the
script's token have become impossible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.policies.decoding import Choice
from environments.policies.transformers import TransformersPolicy
from environments.prompts import SYSTEM_PROMPT
from environments.rendering import Renderer
from environments.seats import Conversation, Limits, Reply
from environments.zoom import ZoomEnvironment
from fovea.boxes import Frame
from fovea.models.loading import Model
from fovea.models.processors import pixel_limits
from fovea.tasks import Task

FILLER = "!"
"""One token, whatever stands before it."""


@dataclass(frozen=True)
class Workload:
    """Tasks with prompts of one length, and the tokens of each turn of each rollout, `turns[turn][row]`."""

    tasks: list[Task]
    turns: list[list[list[int]]]
    episodes: EpisodeArguments
    num_visual: int
    """Visual tokens of a prompt."""

    @property
    def limits(self) -> Limits:
        return Limits(len(self.turns) + 1, 2**20, 2**20)


def make_workload(
    model: Model,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    num_generations: int,
    num_tasks: int = 1,
    num_zooms: int = 2,
) -> Workload:
    """Groups of rollouts that zoom `num_zooms` times, each into boxes of its own, and then answer.

    Lowers the processor's bound on small images, so that short completions can hold crops.

    Raises:
        ValueError: if so many tokens cannot hold the prompt's text, or the calls and crops.
    """
    factor = pixel_limits(model.processor).factor
    model.processor.image_processor.size["shortest_edge"] = 4 * factor**2
    renderer = Renderer(model.processor)
    side = math.isqrt(completion_tokens // 6) * factor
    episodes = EpisodeArguments(crop_min_pixels=side**2, crop_max_pixels=side**2)
    environment = environment_factory(episodes, model)()
    words = sum(token != renderer.image_token_id for token in _prompt(renderer, environment, _task(0, 2 * factor, 0)))
    across = math.isqrt(max(0, prompt_tokens - words))
    if across < 2:
        raise ValueError(f"{prompt_tokens} prompt tokens: the text alone takes {words}, use at least {words + 4}")
    tasks = [_task(seed, across * factor, prompt_tokens - words - across**2) for seed in range(num_tasks)]
    for task in tasks:
        num_tokens = len(_prompt(renderer, environment, task))
        assert num_tokens == prompt_tokens, f"the prompt has {num_tokens} tokens, not {prompt_tokens}"
    turns = _turns(renderer, environment, model.frame, completion_tokens, num_tasks * num_generations, num_zooms)
    return Workload(tasks, turns, episodes, across**2)


def _task(seed: int, side: int, num_fillers: int) -> Task:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return Task(f"t{seed}", (image,), "Which digit?" + FILLER * num_fillers, "7")


def _prompt(renderer: Renderer, environment: ZoomEnvironment, task: Task) -> list[int]:
    messages: list[dict] = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": environment.reset(**task.row())},
    ]
    return renderer.prompt_ids(messages, [environment.image_zoom_in_tool])


def _turns(
    renderer: Renderer, environment: ZoomEnvironment, frame: Frame, num_tokens: int, num_rows: int, num_zooms: int
) -> list[list[list[int]]]:
    """Token ids that each row writes, turn by turn. With the observations between they have `num_tokens` tokens."""
    size = 1000 if frame is Frame.PER_MILLE else environment._seen[0].view.input[0]
    shown = [renderer.observation_ids(environment.image_zoom_in_tool([0, 0, size // 4, size // 4]))] * num_zooms
    written = num_tokens - sum(map(len, shown))
    lengths = [written // (num_zooms + 1)] * num_zooms
    lengths.append(written - sum(lengths))
    turns = []
    for turn, length in enumerate(lengths):
        rows = []
        for row in range(num_rows):
            at = (row * num_zooms + turn) * (size // 2) // (num_rows * num_zooms)
            call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [at, at, at + size // 4, at + size // 4]}}
            action = f"<tool_call>\n{json.dumps(call)}\n</tool_call>" if turn < num_zooms else "<answer>7</answer>"
            rows.append(_written(renderer.tokenizer, action, length))
        turns.append(rows)
    return turns


def _written(tokenizer: Any, action: str, length: int) -> list[int]:
    """The tokens of a turn, its thoughts as long as need be."""
    head, tail = (tokenizer(text).input_ids for text in ("<think>", f"</think>\n{action}"))
    filler = tokenizer(FILLER).input_ids
    missing = length - len(head) - len(tail) - 1
    if missing < 0:
        raise ValueError(f"turns of {length} tokens cannot hold {action!r}: use more completion_tokens, or fewer zooms")
    return [*head, *(filler * missing)[:missing], *tail, tokenizer.eos_token_id]


class Scripted:
    """A policy that writes the script at once: rollouts for which no model is asked."""

    def __init__(self, renderer: Renderer, turns: Sequence[Sequence[Sequence[int]]]) -> None:
        self.renderer, self.turns = renderer, iter(turns)

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        rows = next(self.turns)[: len(conversations)]
        return [Reply(self.renderer.written_text(row), tuple(row)) for row in rows]


class _Forced(LogitsProcessor):
    """Leaves each row only the token of its script: at the n-th step the n-th."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.steps = zip(*rows, strict=True)

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        tokens = torch.tensor(next(self.steps), device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, scores.gather(1, tokens))


@contextmanager
def forced(network: Any, turns: Sequence[Sequence[Sequence[int]]]) -> Iterator[None]:
    """In here `network.generate` and `TransformersPolicy` draw the script's tokens, turn after turn and over again."""
    turn = count()
    generate, chooser = network.generate, TransformersPolicy._chooser

    def next_script() -> _Forced:
        return _Forced(turns[next(turn) % len(turns)])

    def forced_generate(**inputs: Any) -> Any:
        return generate(**inputs, logits_processor=LogitsProcessorList([next_script()]))

    def forced_chooser(policy: TransformersPolicy) -> Choice:
        choose, script = chooser(policy), next_script()
        return lambda logits, rows: choose(script(None, logits), rows)

    network.generate = forced_generate
    try:
        with patch.object(TransformersPolicy, "_chooser", forced_chooser):
            yield
    finally:
        network.generate = generate
