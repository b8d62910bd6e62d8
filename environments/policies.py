"""Policies: a Transformers model, and an oracle that knows where to look."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from environments.decoding import Decoder
from environments.play import Conversation, Reply, Sampling
from environments.rendering import Renderer
from fovea.answers import written
from fovea.boxes import Box, Frame, Framing, View
from fovea.shared_prefix import allow_layouts, without_adapters
from fovea.tasks import Target


@dataclass
class TransformersPolicy:
    """Samples turns from a Transformers vision-language model.

    Rows run `batch_size` at a time. The model is in evaluation mode meanwhile, so that
    adapter dropout is not part of the policy. With `keep_caches` a prompt is computed once for all its rollouts and
    a turn goes on from the last one's cache; without, or for a family that cannot, each turn is a fresh `generate`.
    """

    network: Any
    renderer: Renderer
    sampling: Sampling
    batch_size: int = 64
    keep_caches: bool = True

    def __post_init__(self) -> None:
        self.decoder = None
        if self.keep_caches and allow_layouts(self.network):
            self.decoder = Decoder(self.network, self.renderer)

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        replies: list[Reply] = []
        with evaluation_mode(self.network), torch.no_grad():
            for start in range(0, len(conversations), self.batch_size):
                chunk = slice(start, start + self.batch_size)
                replies += self._reply(conversations[chunk], max_tokens[chunk])
        return replies

    def _reply(self, conversations: Sequence[Conversation], max_tokens: Sequence[int]) -> list[Reply]:
        if self.decoder is not None:
            rows = self.decoder.continue_turns(conversations, max_tokens, self._chooser())
            return [self._cut(row, limit) for row, limit in zip(rows, max_tokens, strict=True)]
        tokenizer = self.renderer.tokenizer
        batch = self.renderer.model_inputs([c.token_ids for c in conversations], [c.images for c in conversations])
        batch = {name: value.to(self.network.device) for name, value in batch.items()}
        sampling: dict[str, Any] = {"do_sample": False}
        if self.sampling.temperature > 0:
            sampling = {"do_sample": True, **asdict(self.sampling)}
        base = without_adapters(self.network)
        ends = list(self.renderer.end_ids)
        plain = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        with patch.object(base, "generation_config", plain):  # a released one would add penalties of its own
            output = self.network.generate(
                **batch, **sampling, max_new_tokens=max(max_tokens), suppress_tokens=self.renderer.placeholder_ids
            )
        rows = output[:, batch["input_ids"].shape[1] :].tolist()
        return [self._cut(row, limit) for row, limit in zip(rows, max_tokens, strict=True)]

    def _chooser(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Picks token ids [rows] from logits [rows, vocabulary], as `generate` would with the same settings."""
        warpers = LogitsProcessorList(
            [SuppressTokensLogitsProcessor(self.renderer.placeholder_ids, self.network.device)]
        )
        if self.sampling.temperature == 0:
            return lambda logits: warpers(None, logits.float()).argmax(-1)
        warpers.append(TemperatureLogitsWarper(float(self.sampling.temperature)))
        if self.sampling.top_k:
            warpers.append(TopKLogitsWarper(self.sampling.top_k))
        if self.sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(self.sampling.top_p))
        if self.sampling.min_p:
            warpers.append(MinPLogitsWarper(self.sampling.min_p))
        return lambda logits: torch.multinomial(warpers(None, logits.float()).softmax(-1), 1).squeeze(1)

    def _cut(self, ids: list[int], limit: int) -> Reply:
        """The row up to its end token, or cut at its own limit."""
        ends = self.renderer.end_ids
        length = next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))
        kept = tuple(ids[: min(length, limit)])
        return Reply(self.renderer.written_text(kept), kept, is_truncated=kept[-1] not in ends)


@contextmanager
def evaluation_mode(network: Any):
    """The model in eval mode inside the block, in its former mode after it."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@dataclass
class OraclePolicy:
    """Plays from a task's own boxes and answer; `noise` and `looseness` make it as sloppy as a human annotator.

    It zooms into each of `task.boxes` in turn (inside the previous crop when `metadata["nested"]`), unless
    `metadata["needs_zoom"]` is False, and then writes the answer. `noise` is the standard deviation of a box's shift
    in fractions of its own size, `looseness` the range of factors by which it is enlarged.
    `metadata["labels"]` names the boxes, `metadata["readings"]` says what stands in each.
    """

    frame: Frame
    noise: float = 0.0
    looseness: tuple[float, float] = (1.0, 1.0)
    box_step: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [Reply(self._write(conversation)) for conversation in conversations]

    def _write(self, conversation: Conversation) -> str:
        task = conversation.task
        done = sum(message["role"] == "tool" for message in conversation.messages)
        targets = task.boxes if task.metadata.get("needs_zoom", True) else ()
        labels = list(task.metadata.get("labels", [""] * len(targets)))
        readings = list(task.metadata.get("readings", []))[:done]
        said = [f"I read {reading}." for reading in readings if reading]
        if done == len(targets):
            answer = written(task, conversation.framing)
            return f"<think>{' '.join(said) or 'I can see it.'}</think>\n<answer>{answer}</answer>"
        thought = " ".join([*said, "I zoom in."])
        nested = bool(task.metadata.get("nested")) and done > 0
        img_idx = len(conversation.images) - 1 if nested else task.boxes[done].img_idx
        box = self._box(conversation, task.boxes[done], is_in_crop=nested, img_idx=img_idx)
        arguments = {"bbox_2d": box, "label": labels[done], "img_idx": img_idx}
        call = json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})
        return f"<think>{thought}</think>\n<tool_call>\n{call}\n</tool_call>"

    def _box(self, conversation: Conversation, target: Target, *, is_in_crop: bool, img_idx: int) -> list[float]:
        """The target as the annotator draws it on image `img_idx`: whole units of the model's frame, or thousandths."""
        framing = conversation.framing or Framing(self.frame)
        unit, view = target.box, framing.view(target.img_idx)
        if is_in_crop:
            crop = conversation.messages[-1]["content"][0]["crop"].region
            unit = Box(
                (unit.x1 - crop.x1) / crop.width,
                (unit.y1 - crop.y1) / crop.height,
                (unit.x2 - crop.x1) / crop.width,
                (unit.y2 - crop.y1) / crop.height,
                Frame.UNIT,
            )
            original = crop.to(Frame.ORIGINAL, view)
            size = max(1, round(original.width)), max(1, round(original.height))
            view = View(size, conversation.images[img_idx].size)
        dx, dy = self._rng.normal(0, self.noise, size=2) * (unit.width, unit.height)
        loose = Box(unit.x1 + dx, unit.y1 + dy, unit.x2 + dx, unit.y2 + dy, Frame.UNIT)
        drawn = loose.enlarged(self._rng.uniform(*self.looseness)).clipped(view).to(self.frame, view)
        if self.frame is Frame.UNIT:
            return [round(value, 3) for value in drawn.coordinates]
        return [round(value / self.box_step) * self.box_step for value in drawn.coordinates]
