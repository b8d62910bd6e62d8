"""Reads prompts and observations into caches: what prompts share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

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

AT_ONCE = 32_768
"""Tokens of prompts that are read in one forward; a longer prompt is read alone."""


class Reader:
    """Computes what conversations hold, with a network that takes layouts (`fovea.kernels.layouts.allow_layouts`)."""

    def __init__(self, network: Any, renderer: Renderer) -> None:
        self.base, self.renderer, self.blocks = without_adapters(network), renderer, image_blocks(network)
        self.num_prefilled = 0
        self.forget()

    def forget(self) -> None:
        """Drops whatever was computed of prompts."""
        self._prefixes: WeakValueDictionary[Any, Prefix] = WeakValueDictionary()
        self._common: tuple[list[int], Prefix] | None = None

    def prefill(self, conversations: Sequence[Conversation]) -> None:
        """Gives fresh conversations their caches: all but the last token of each distinct prompt, computed once.

        So is the text that all of them begin with.
        """
        groups: dict[Any, list[Conversation]] = {}
        for conversation in conversations:
            key = (tuple(conversation.token_ids), tuple(map(image_hash, conversation.images)))
            groups.setdefault(key, []).append(conversation)
        prefixes = dict(self._prefixes)  # held until their conversations hold them
        if missing := {key: group[0] for key, group in groups.items() if key not in prefixes}:
            for part in _parts(missing):
                prefixes |= zip(part, self._prefixes_of(list(part.values())), strict=True)
            self._prefixes.update({key: prefixes[key] for key in missing})
        for key, group in groups.items():
            prefix = prefixes[key]
            nothing_own = [layer[:, :0] for layer in prefix.layers]
            for conversation in group:
                num_images = len(conversation.images)
                conversation.cache = Cache(prefix, nothing_own, prefix.num_tokens, num_images, prefix.next_position)

    def _prefixes_of(self, firsts: Sequence[Conversation]) -> list[Prefix]:
        """The stored prefix of each distinct prompt."""
        prompts = [conversation.token_ids[:-1] for conversation in firsts]
        common = self._common_prefix(prompts)
        length = common.num_tokens
        chunks = [prompt[length:] for prompt in prompts]
        nothing_own = [layer[:, :0] for layer in common.layers]
        turn = TurnCache([Cache(common, nothing_own, length, 0, length)] * len(firsts), max(map(len, chunks)))
        masked = [self.blocks is not None and self.blocks.masks(prompt) for prompt in prompts]
        _, positions = self.read(turn, chunks, [c.images for c in firsts], [length] * len(firsts), masked)
        self.num_prefilled += sum(map(len, chunks))
        return [
            Prefix(
                [torch.cat(parts, dim=1) for parts in zip(common.layers, turn.layers_of(row), strict=True)],
                len(prompt), int(positions[row]), masked[row],
            )
            for row, prompt in enumerate(prompts)
        ]  # fmt: skip

    def _common_prefix(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """The prefix of the text that begins all prompts; it is kept for later prompts."""
        if self._common is not None:
            ids, common = self._common
            if all(len(prompt) > len(ids) and prompt[: len(ids)] == ids for prompt in prompts):
                return common
        text = self.base.config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        nothing = self.base.get_input_embeddings().weight.new_zeros(text.num_key_value_heads, 0, width)
        common = Prefix([nothing] * (2 * text.num_hidden_layers), 0, 0)
        if length := num_common(prompts, self.renderer.image_token_id) if len(prompts) > 1 else 0:
            turn = TurnCache([Cache(common, common.layers, 0, 0, 0)], length)
            ids = list(prompts[0][:length])
            self.read(turn, [ids], [()], [0], [False])
            common = Prefix(turn.layers_of(0), length, length)
            self._common = ids, common
            self.num_prefilled += length
        return common

    @phase("prefill")
    def read(
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
        turn.expect(width)
        if self.blocks is not None and any(masked):
            numbers = [
                number_images(chunk, self.renderer.image_token_id) if is_masked else [OUTSIDE] * len(chunk)
                for chunk, is_masked in zip(chunks, masked, strict=True)
            ]
            turn.expect_images(numbers, self.blocks.layers)
        pixels = batched([image for row in inputs for image in row])
        pixels = {name: tensor.to(device) for name, tensor in pixels.items()}
        hidden = self.backbone(turn, ids.to(device), positions.to(device), **pixels)
        turn.keep_new(counts)
        last = hidden[torch.arange(len(chunks), device=device), counts - 1]
        return last, torch.tensor(following, device=device)

    def backbone(self, turn: TurnCache, ids: torch.Tensor, positions: torch.Tensor, **pixels: Any) -> torch.Tensor:
        output = self.base.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=no_mask(self.base),
            use_cache=False,
            layout=turn,
            **pixels,
        )
        return output.last_hidden_state


def _parts(firsts: dict[Any, Conversation]) -> list[dict[Any, Conversation]]:
    """The conversations in parts of at most `AT_ONCE` tokens, padded as they are read."""
    parts: list[dict[Any, Conversation]] = [{}]
    longest = 0
    for key, conversation in firsts.items():
        longest = max(longest, len(conversation.token_ids))
        if parts[-1] and longest * (len(parts[-1]) + 1) > AT_ONCE:
            parts.append({})
            longest = len(conversation.token_ids)
        parts[-1][key] = conversation
    return parts
