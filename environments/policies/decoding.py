"""Rollouts that keep what they have computed: what prompts share is prefilled once, turns go on from their caches.

Greedy tokens are those of `generate`; what differs is that nothing is computed twice, and that no turn waits for the
longest one beside it. A conversation's cache lives in `Conversation.cache` and dies with it, so weights that have
changed since are never mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
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
SHARE = 4
"""Turns that wait join those that are being written when they are one in so many of them."""


@dataclass
class _State:
    """The turns that are being written: what rows [rows] have computed, and what they are to be fed next."""

    turn: TurnCache
    hidden: torch.Tensor
    """At the end of each row [rows, width]."""
    positions: torch.Tensor
    """Of the next token of each row [rows]."""
    tokens: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """Chosen and not fed yet [rows]."""

    def feed(self, backbone: Callable[..., torch.Tensor]) -> None:
        """Computes the chosen tokens."""
        self.turn.expect(torch.ones_like(self.positions), 1)
        places = self.positions.expand(3, 1, -1).transpose(1, 2)
        self.hidden = backbone(self.turn, self.tokens[:, None], places)[:, -1]
        self.positions = self.positions + 1

    def keeping(self, places: Sequence[int]) -> _State:
        rows = torch.tensor(places, device=self.positions.device)
        self.turn.keep(rows)
        return _State(self.turn, self.hidden[rows], self.positions[rows], self.tokens[rows])

    def joined(self, begun: _State) -> _State:
        self.turn.join(begun.turn)
        hidden, positions = (torch.cat([getattr(part, name) for part in (self, begun)])
                             for name in ("hidden", "positions"))  # fmt: skip
        return _State(self.turn, hidden, positions)


@dataclass
class OpenTurn:
    """A turn that is asked for, or being written."""

    conversation: Conversation
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    draws: np.random.Generator | None = None
    """What its tokens are drawn from, if it has a seed."""


Choice = Callable[[torch.Tensor, Sequence[OpenTurn]], torch.Tensor]
"""Picks token ids [rows] from logits [rows, vocabulary] for the turns of these rows."""


class Decoder:
    """Continues conversations with a network that takes layouts (`fovea.kernels.layouts.allow_layouts`).

    At most `max_rows` turns are written side by side. A turn that is asked for meanwhile joins them.
    """

    def __init__(self, network: Any, renderer: Renderer, max_rows: int) -> None:
        self.base, self.renderer, self.max_rows = without_adapters(network), renderer, max_rows
        self.blocks = image_blocks(network)
        self.num_prefilled = 0
        self.forget()

    def submit(self, conversation: Conversation, max_tokens: int) -> None:
        """Asks for the next turn of a conversation."""
        seed = conversation.turn_seed
        draws = None if seed is None else np.random.default_rng(seed)
        self._waiting.append(OpenTurn(conversation, max_tokens, draws=draws))

    def forget(self) -> None:
        """Drops the turns that have not ended, and whatever was computed of prompts."""
        self._waiting: list[OpenTurn] = []
        self._rows: list[OpenTurn] = []
        self._state: _State | None = None
        self._prefixes: WeakValueDictionary[Any, Prefix] = WeakValueDictionary()
        self._common: tuple[list[int], Prefix] | None = None

    def advance(self, choose: Choice) -> list[OpenTurn]:
        """Writes until turns have ended; these, with their end tokens if they were written."""
        while True:
            if self._state is not None:
                self._state.feed(self._backbone)
            if self._are_due(few := self._waiting[: self.max_rows - len(self._rows)]):
                begun = self._begin(few)
                self._state = begun if self._state is None else self._state.joined(begun)
                self._rows += few
                del self._waiting[: len(few)]
            assert self._state is not None, "no turn was asked for"
            self._state.tokens = choose(self.base.get_output_embeddings()(self._state.hidden), self._rows)
            if ended := self._ended():
                return ended

    def _are_due(self, few: Sequence[OpenTurn]) -> bool:
        """Whether these turns begin now: not each alone, for they take a forward of their own."""
        return bool(few) and len(few) * SHARE >= len(self._rows)

    def _ended(self) -> list[OpenTurn]:
        """The turns that the last tokens have ended, which make room."""
        state = self._state
        assert state is not None
        ended, kept = [], []
        for place, (row, token) in enumerate(zip(self._rows, state.tokens.tolist(), strict=True)):
            row.token_ids.append(token)
            if token in self.renderer.end_ids or len(row.token_ids) == row.max_tokens:
                self._save(row.conversation, state.turn, place, int(state.positions[place]))
                ended.append(row)
            else:
                kept.append(place)
        if ended:
            self._rows = [self._rows[place] for place in kept]
            self._state = state.keeping(kept) if kept else None
        return ended

    def _begin(self, rows: Sequence[OpenTurn]) -> _State:
        """Computes what these conversations hold that is not computed yet."""
        conversations = [row.conversation for row in rows]
        self._prefill([c for c in conversations if c.cache is None])
        chunks = [c.token_ids[c.cache.num_seen :] for c in conversations]
        images = [c.images[c.cache.num_images :] for c in conversations]
        room = max(map(len, chunks)) + min(ROOM, max(row.max_tokens for row in rows))
        turn = TurnCache([c.cache for c in conversations], room)
        starts = [c.cache.next_position for c in conversations]
        masked = [c.cache.prefix.is_masked for c in conversations]
        return _State(turn, *self._forward(turn, chunks, images, starts, masked))

    def _prefill(self, conversations: Sequence[Conversation]) -> None:
        """Gives fresh conversations their caches: all but the last token of each distinct prompt, computed once.

        So is the text that all of them begin with.
        """
        groups: dict[Any, list[Conversation]] = {}
        for conversation in conversations:
            key = (tuple(conversation.token_ids), tuple(map(image_hash, conversation.images)))
            groups.setdefault(key, []).append(conversation)
        prefixes = dict(self._prefixes)  # held until their conversations hold them
        if missing := {key: group[0] for key, group in groups.items() if key not in prefixes}:
            prefixes |= zip(missing, self._prefixes_of(list(missing.values())), strict=True)
            self._prefixes.update({key: prefixes[key] for key in missing})
        for key, group in groups.items():
            prefix = prefixes[key]
            nothing_own = [layer[:, :0] for layer in prefix.layers]
            for conversation in group:
                num_images = len(conversation.images)
                conversation.cache = Cache(prefix, nothing_own, prefix.num_tokens, num_images, prefix.next_position)

    def _prefixes_of(self, firsts: Sequence[Conversation]) -> list[Prefix]:
        """What each distinct prompt leaves."""
        prompts = [conversation.token_ids[:-1] for conversation in firsts]
        common = self._common_prefix(prompts)
        length = common.num_tokens
        chunks = [prompt[length:] for prompt in prompts]
        nothing_own = [layer[:, :0] for layer in common.layers]
        turn = TurnCache([Cache(common, nothing_own, length, 0, length)] * len(firsts), max(map(len, chunks)))
        masked = [self.blocks is not None and self.blocks.masks(prompt) for prompt in prompts]
        _, positions = self._forward(turn, chunks, [c.images for c in firsts], [length] * len(firsts), masked)
        self.num_prefilled += sum(map(len, chunks))
        return [
            Prefix(
                [torch.cat(parts, dim=1) for parts in zip(common.layers, turn.layers_of(row), strict=True)],
                len(prompt), int(positions[row]), masked[row],
            )
            for row, prompt in enumerate(prompts)
        ]  # fmt: skip

    def _common_prefix(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """Of the text that all prompts begin with; it is remembered for prompts that come later."""
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
            self._forward(turn, [ids], [()], [0], [False])
            common = Prefix(turn.layers_of(0), length, length)
            self._common = ids, common
            self.num_prefilled += length
        return common

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
        conversation.cache = Cache(kept.prefix, layers, num_seen, num_images, next_position)
