"""Rollouts that keep what they have computed: what prompts share is prefilled once, turns go on from their caches.

Greedy tokens are those of `generate`; what differs is that nothing is computed twice. A conversation's cache lives in
`Conversation.cache` and dies with it, so weights that have changed since are never mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from environments.policies.turn_cache import Cache, Prefix, TurnCache
from environments.rendering import Renderer, batched
from environments.seats import Conversation
from fovea.images import image_hash
from fovea.kernels.image_blocks import image_blocks
from fovea.kernels.layouts import no_mask, rope_positions, without_adapters
from fovea.kernels.masked_layouts import OUTSIDE, number_images
from fovea.kernels.packing import num_common
from fovea.ledger import phase

ROOM = 256
"""Places for new tokens that a turn begins with; they double when they are full."""


class Decoder:
    """Continues conversations with a network that takes layouts (`fovea.kernels.layouts.allow_layouts`)."""

    def __init__(self, network: Any, renderer: Renderer) -> None:
        self.base, self.renderer = without_adapters(network), renderer
        self.blocks = image_blocks(network)
        self.num_prefilled = 0

    def continue_turns(
        self,
        conversations: Sequence[Conversation],
        max_tokens: Sequence[int],
        choose: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[list[int]]:
        """The next turn's token ids of each conversation, the end token included if it was written.

        `choose` picks a token id [rows] from logits [rows, vocabulary].
        """
        self._prefill([c for c in conversations if c.cache is None])
        chunks = [c.token_ids[c.cache.num_seen :] for c in conversations]
        images = [c.images[c.cache.num_images :] for c in conversations]
        turn = TurnCache([c.cache for c in conversations], max(map(len, chunks)) + min(ROOM, max(max_tokens)))
        starts, masked = ([getattr(c.cache, name) for c in conversations] for name in ("next_position", "is_masked"))
        hidden, positions = self._forward(turn, chunks, images, starts, masked)
        written: list[list[int]] = [[] for _ in conversations]
        rows = list(range(len(conversations)))
        ends = self.renderer.end_ids
        while True:
            tokens = choose(self.base.get_output_embeddings()(hidden))
            unfinished = []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                written[row].append(token)
                if token in ends or len(written[row]) == max_tokens[row]:
                    self._save(conversations[row], turn, place, int(positions[place]))
                else:
                    unfinished.append(place)
            if not unfinished:
                return written
            if len(unfinished) < len(rows):
                kept = torch.tensor(unfinished, device=tokens.device)
                turn.keep(kept)
                tokens, positions = tokens[kept], positions[kept]
                rows = [rows[place] for place in unfinished]
            turn.expect(torch.ones_like(positions), 1)
            hidden = self._backbone(turn, tokens[:, None], positions.expand(3, 1, -1).transpose(1, 2))[:, -1]
            positions = positions + 1

    def _prefill(self, conversations: Sequence[Conversation]) -> None:
        """Gives fresh conversations their caches: all but the last token of each distinct prompt, computed once.

        So is the text that all of them begin with.
        """
        groups: dict[Any, list[Conversation]] = {}
        for conversation in conversations:
            key = (tuple(conversation.token_ids), tuple(map(image_hash, conversation.images)))
            groups.setdefault(key, []).append(conversation)
        if not groups:
            return
        firsts = [group[0] for group in groups.values()]
        prompts = [conversation.token_ids[:-1] for conversation in firsts]
        text = self.base.config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        nothing = self.base.get_input_embeddings().weight.new_zeros(text.num_key_value_heads, 0, width)
        nothing_own = [nothing] * (2 * text.num_hidden_layers)
        common = Prefix(nothing_own, 0)
        length = num_common(prompts, self.renderer.image_token_id) if len(prompts) > 1 else 0
        if length:
            turn = TurnCache([Cache(common, nothing_own, 0, 0, 0)], length)
            self._forward(turn, [prompts[0][:length]], [()], [0], [False])
            common = Prefix(turn.layers_of(0), length)
        chunks = [prompt[length:] for prompt in prompts]
        turn = TurnCache([Cache(common, nothing_own, length, 0, length)] * len(firsts), max(map(len, chunks)))
        masked = [self.blocks is not None and self.blocks.masks(prompt) for prompt in prompts]
        _, positions = self._forward(turn, chunks, [c.images for c in firsts], [length] * len(firsts), masked)
        for row, (first, group) in enumerate(zip(firsts, groups.values(), strict=True)):
            layers = [torch.cat(parts, dim=1) for parts in zip(common.layers, turn.layers_of(row), strict=True)]
            prefix = Prefix(layers, len(prompts[row]))
            for conversation in group:
                position = int(positions[row])
                conversation.cache = Cache(
                    prefix, nothing_own, len(prompts[row]), len(first.images), position, masked[row]
                )
        self.num_prefilled += length + sum(map(len, chunks))

    @phase("prefill")
    def _forward(
        self,
        turn: TurnCache,
        chunks: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image.Image]],
        starts: Sequence[int],
        masked: Sequence[bool],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [rows, width] at the end of each chunk, and the position that comes next in each row."""
        inputs = [[self.renderer.image_inputs(image) for image in row] for row in images]
        width = max(map(len, chunks))
        ids = torch.full((len(chunks), width), self.renderer.tokenizer.pad_token_id)
        positions = torch.zeros(3, len(chunks), width, dtype=torch.long)
        following = []
        for row, (chunk, found, start) in enumerate(zip(chunks, inputs, starts, strict=True)):
            self.renderer.check(chunk, found, name=f"turn of row {row}")
            ids[row, : len(chunk)] = torch.tensor(chunk)
            grids = [image.extent for image in found]
            places = rope_positions(self.base, chunk, self.renderer.image_token_id, grids) + start
            positions[:, row, : len(chunk)] = places
            following.append(int(places.max()) + 1)
        device = self.base.device
        counts = torch.tensor([len(chunk) for chunk in chunks], device=device)
        turn.expect(counts, width)
        if self.blocks is not None and any(masked):
            numbers = [
                number_images(chunk, self.renderer.image_token_id) if is_masked else [OUTSIDE] * len(chunk)
                for chunk, is_masked in zip(chunks, masked, strict=True)
            ]
            turn.expect_images(numbers, self.blocks.layers)
        pixels = batched([image for row in inputs for image in row])
        pixels = {name: tensor.to(device) for name, tensor in pixels.items()}
        hidden = self._backbone(turn, ids.to(device), positions.to(device), **pixels)
        last = hidden[torch.arange(len(chunks), device=device), counts - 1]
        return last, torch.tensor(following, device=device)

    def _backbone(self, turn: TurnCache, ids: torch.Tensor, positions: torch.Tensor, **pixels: Any) -> torch.Tensor:
        output = self.base.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=no_mask(self.base),
            use_cache=False,
            layout=turn,
            **pixels,
        )
        return output.last_hidden_state

    def _save(self, conversation: Conversation, turn: TurnCache, place: int, next_position: int) -> None:
        """Keeps what the row has computed. Its last token has not been fed yet: it opens the next turn's chunk."""
        kept: Cache = conversation.cache
        layers = turn.layers_of(place)
        num_seen = kept.prefix.num_tokens + layers[0].shape[1]
        num_images = len(conversation.images)
        conversation.cache = Cache(kept.prefix, layers, num_seen, num_images, next_position, kept.is_masked)
