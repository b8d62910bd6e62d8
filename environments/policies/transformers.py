"""The policy that is a Transformers model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

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

from environments.play import Sampling
from environments.policies.decoding import Choice, Decoder, OpenTurn
from environments.rendering import Renderer
from environments.seats import Conversation, Reply
from fovea.kernels.layouts import allow_layouts, without_adapters
from fovea.replacing import replaced


@dataclass
class TransformersPolicy:
    """Samples turns from a Transformers vision-language model.

    Rows run `batch_size` at a time. The model is in evaluation mode meanwhile, so that
    adapter dropout is not part of the policy. With `keep_caches` a prompt is computed once for all its rollouts, a turn
    goes on from the last one's cache, and rows enter their next turn while others still write; without, or for a family
    that cannot, each turn is a fresh `generate`, which draws all rows from the process's generator.
    """

    network: Any
    renderer: Renderer
    sampling: Sampling
    batch_size: int = 64
    keep_caches: bool = True

    def __post_init__(self) -> None:
        self.decoder = None
        if self.keep_caches and allow_layouts(self.network):
            self.decoder = Decoder(self.network, self.renderer, self.batch_size)
        self._waiting: list[tuple[Conversation, int]] = []

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        for conversation, limit in zip(conversations, max_tokens, strict=True):
            self.submit(conversation, max_tokens=limit)
        replies: dict[int, Reply] = {}
        try:
            while len(replies) < len(conversations):
                replies |= {id(conversation): reply for conversation, reply in self.finished()}
        finally:
            self.abandon()
        return [replies[id(conversation)] for conversation in conversations]

    def submit(self, conversation: Conversation, *, max_tokens: int) -> None:
        """Begins a turn."""
        if self.decoder is not None:
            self.decoder.submit(conversation, max_tokens)
        else:
            self._waiting.append((conversation, max_tokens))

    def finished(self) -> list[tuple[Conversation, Reply]]:
        """Turns that have ended. With `generate` those that were begun first end together."""
        with evaluation_mode(self.network), torch.no_grad():
            if self.decoder is not None:
                turns = self.decoder.advance(self._chooser())
                return [(turn.conversation, self._cut(turn.token_ids, turn.max_tokens)) for turn in turns]
            begun, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
            rows = self._generate([conversation for conversation, _ in begun], max(limit for _, limit in begun))
            return [
                (conversation, self._cut(row, limit)) for (conversation, limit), row in zip(begun, rows, strict=True)
            ]

    def abandon(self) -> None:
        """Forgets the turns that have not ended."""
        self._waiting.clear()
        if self.decoder is not None:
            self.decoder.forget()

    def _generate(self, conversations: Sequence[Conversation], max_tokens: int) -> list[list[int]]:
        """The rows' next tokens, whatever stands behind their ends included."""
        tokenizer = self.renderer.tokenizer
        batch = self.renderer.model_inputs([c.token_ids for c in conversations], [c.images for c in conversations])
        batch = {name: value.to(self.network.device) for name, value in batch.items()}
        sampling: dict[str, Any] = {"do_sample": False}
        if self.sampling.temperature > 0:
            sampling = {"do_sample": True, **asdict(self.sampling)}
        base = without_adapters(self.network)
        ends = list(self.renderer.end_ids)
        plain = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        with replaced(base, "generation_config", plain):  # a released one would add penalties of its own
            output = self.network.generate(
                **batch, **sampling, max_new_tokens=max_tokens, suppress_tokens=self.renderer.placeholder_ids,
                synced_gpus=False,  # whole weights are here, and processes do not call this equally often
            )  # fmt: skip
        return output[:, batch["input_ids"].shape[1] :].tolist()

    def _chooser(self) -> Choice:
        """Picks as `generate` would with the same settings."""
        warpers: Any = LogitsProcessorList(
            [SuppressTokensLogitsProcessor(self.renderer.placeholder_ids, self.network.device)]
        )
        if self.sampling.temperature == 0:
            return lambda logits, turns: warpers(None, logits.float()).argmax(-1)
        warpers.append(TemperatureLogitsWarper(float(self.sampling.temperature)))
        if self.sampling.top_k:
            warpers.append(TopKLogitsWarper(self.sampling.top_k))
        if self.sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(self.sampling.top_p))
        if self.sampling.min_p:
            warpers.append(MinPLogitsWarper(self.sampling.min_p))
        return lambda logits, turns: _draw(warpers(None, logits.float()).softmax(-1), turns)

    def _cut(self, ids: list[int], limit: int) -> Reply:
        """The row up to its end token, or cut at its own limit."""
        ends = self.renderer.end_ids
        length = next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))
        kept = tuple(ids[: min(length, limit)])
        return Reply(self.renderer.written_text(kept), kept, is_truncated=kept[-1] not in ends)


def _draw(probabilities: torch.Tensor, turns: Sequence[OpenTurn]) -> torch.Tensor:
    """Token ids [rows] drawn from probabilities [rows, vocabulary], from the turns' own draws where all have some."""
    numbers = [turn.draws.random() for turn in turns if turn.draws is not None]
    if len(numbers) < len(turns):
        return torch.multinomial(probabilities, 1).squeeze(1)
    below = probabilities.double().cumsum(-1)
    wanted = below[:, -1:] * torch.tensor(numbers, dtype=below.dtype, device=below.device)[:, None]
    return torch.searchsorted(below, wanted, right=True).squeeze(1).clamp_max(below.shape[1] - 1)


@contextmanager
def evaluation_mode(network: Any):
    """The model in eval mode inside the block, in its former mode after it."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
