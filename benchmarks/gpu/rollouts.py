"""Slices `greedy` and `rollouts`: kept caches against `generate`, tiny token for token, a large model in seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.cases import Case, device, gib, peak_bytes, place, restart_peak, synchronized
from benchmarks.workload import forced, make_workload
from doctor import memory
from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Conversation
from fovea.ledger import LEDGER
from fovea.models.loading import load_model
from fovea.models.random_models import random_model

TOKENS = 48
"""Of a turn."""
WAYS = {"ours": True, "generate": False}


def cases(small: bool) -> list[Case]:
    rows, size = (8, "qwen2_5_vl-narrow") if small else (64, "qwen2_5_vl-3b")
    prompt, completion = (400, 200) if small else (1024, 256)
    return [
        Case("greedy", f"tiny, {rows} rows", 30, partial(_greedy, rows)),
        Case("rollouts", f"{size}, {rows} episodes", 60, partial(_rollouts, size, rows, prompt, completion)),
    ]


class Endless(Renderer):
    """A renderer by which policies never write the end token."""

    @property
    def placeholder_ids(self) -> list[int]:
        return [*super().placeholder_ids, self.tokenizer.eos_token_id]


def _greedy(num_rows: int, seconds_left: float) -> dict[str, Any]:
    """Three turns of each row, a crop of its own after the first and a text after the second, whatever is written.

    The end token may not be written, so that all turns are of one length.
    """
    model = load_model("tiny")
    model.network.requires_grad_(False).to(device())
    written, seconds = {}, {}
    for way, keep_caches in WAYS.items():
        for _ in range(2):  # the first time kernels are chosen
            renderer = Endless(model.processor)
            policy = TransformersPolicy(model.network, renderer, Sampling(0.0), keep_caches=keep_caches)
            started = synchronized()
            written[way] = _three_turns(policy, renderer, num_rows)
            seconds[way] = synchronized() - started
    num_tokens = sum(map(len, written["ours"]))
    num_same = sum(a == b for a, b in zip(written["ours"], written["generate"], strict=True))
    steps = 3 * TOKENS
    text = f"{num_same} of {len(written['ours'])} turns equal ({num_tokens} tokens); " + ", ".join(
        f"{way} {seconds[way] / steps * 1e3:.1f} ms a step of {num_rows} rows" for way in WAYS
    )
    return {"text": text, "same": num_same, "turns": len(written["ours"]), "tokens": num_tokens, "seconds": seconds}


def _three_turns(policy: TransformersPolicy, renderer: Renderer, num_rows: int) -> list[tuple[int, ...]]:
    """The rows' turns one after the other; four rows each share a prompt."""
    conversations = []
    for row in range(num_rows):
        image = _picture(row // 4, 128)
        content = [{"type": "image", "image": image}, {"type": "text", "text": "Which shapes are there? Tell me all."}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        conversations.append(Conversation(None, messages, renderer.prompt_ids(messages, []), [image]))  # type: ignore[arg-type]
    turns: list[tuple[int, ...]] = []
    for turn in range(3):
        replies = policy.reply(conversations, max_tokens=[TOKENS] * num_rows)
        turns += [reply.token_ids for reply in replies]
        for row, (conversation, reply) in enumerate(zip(conversations, replies, strict=True)):
            crop = _picture(100 + row, 64)
            blocks: list[dict[str, Any]] = [{"type": "text", "text": "And now?"}]
            if turn == 0:
                blocks.insert(0, {"type": "image", "image": crop})
                conversation.images.append(crop)
            conversation.token_ids += [*reply.token_ids, *renderer.observation_ids(blocks)]
    return turns


def _picture(seed: int, side: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def _rollouts(size: str, num_rows: int, prompt: int, completion: int, seconds_left: float) -> dict[str, Any]:
    """Scripted episodes with two zooms each in groups of eight: every forward is made, only the choice is fixed."""
    model = random_model(size, **place())
    model.network.requires_grad_(False)
    group = min(8, num_rows)
    work = make_workload(
        model, prompt_tokens=prompt, completion_tokens=completion, num_generations=group, num_tasks=num_rows // group
    )
    results: dict[str, Any] = {}
    for way, keep_caches in WAYS.items():
        renderer = Renderer(model.processor)
        policy = TransformersPolicy(model.network, renderer, Sampling(1.0), keep_caches=keep_caches)
        tasks = [task for task in work.tasks for _ in range(group)]
        model.network.base_model.image_features.features.clear()
        restart_peak()
        LEDGER.restart()
        started = synchronized()
        with forced(model.network, work.turns), torch.no_grad():
            episodes = play(
                policy, tasks, environment_factory=environment_factory(work.episodes, model), limits=work.limits,
                renderer=renderer, batch_size=num_rows,
            )  # fmt: skip
        seconds = synchronized() - started
        num_tokens = sum(sum(episode.record.loss_mask) for episode in episodes)
        results[way] = {"seconds": seconds, "tokens": num_tokens, "peak": peak_bytes(), "ledger": LEDGER.summary()}
    weights = sum(weight.nbytes for weight in model.network.parameters())
    results["estimate"] = weights + memory.rollout_bytes(
        model.network,
        num_prompts=num_rows // group,
        num_rollouts=num_rows,
        prompt_tokens=prompt,
        episode_tokens=completion,
    )
    ours, stock = results["ours"], results["generate"]
    results["text"] = (
        f"generate {stock['seconds']:.1f} s, {gib(stock['peak'])}; ours {ours['seconds']:.1f} s, {gib(ours['peak'])}, "
        f"{ours['tokens'] / ours['seconds']:.0f} tokens/s; **{stock['seconds'] / ours['seconds']:.1f}x**; "
        f"doctor foresaw {gib(results['estimate'])}"
    )
    return results
