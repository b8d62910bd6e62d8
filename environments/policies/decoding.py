"""Rollouts that keep what they have computed: what prompts share is prefilled once, turns go on from their caches.

Greedy tokens are those of `generate`. What differs is that nothing is computed twice, that no turn waits for the
longest one beside it, and that what turns repeat of earlier ones takes few forwards (`Drafts`). A conversation's cache
lives in `Conversation.cache` and dies with it, so weights that have changed since are never mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

import numpy as np
import torch

from environments.policies.drafts import CONTEXT, MOST, Drafts
from environments.policies.reading import Reader
from environments.policies.turn_cache import Cache, TurnCache
from environments.rendering import Renderer
from environments.seats import Conversation

ROOM = 256
"""Places for new tokens that a turn begins with; they double when they are full."""
SHARE = 4
"""Waiting turns start when there is at least one for each `SHARE` turns being written."""


@dataclass
class OpenTurn:
    """A turn that is asked for, or being written."""

    conversation: Conversation
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    draws: np.random.Generator | None = None
    """Random generator of the turn's tokens, if the turn has a seed."""

    @property
    def text(self) -> list[int]:
        """The last tokens before the turn, and the tokens of the turn so far."""
        return [*self.conversation.token_ids[-CONTEXT:], *self.token_ids]


Choice = Callable[[torch.Tensor, Sequence[OpenTurn]], torch.Tensor]
"""Picks token ids [rows] from logits [rows, vocabulary] for the turns of these rows."""


@dataclass
class _Batch:
    """Turns that are being written side by side."""

    rows: list[OpenTurn]
    turn: TurnCache
    """Keys and values of the rows."""
    positions: torch.Tensor
    """Positions of the next token of each row [rows]."""
    tokens: list[int]
    """The chosen token of each row, which was not fed yet."""

    def moved(self, counts: Sequence[int]) -> _Batch:
        """The batch after each row has kept `counts` of the tokens that it was fed."""
        if not any(counts):
            return self
        added = torch.tensor(counts, device=self.positions.device)
        self.turn.keep_new(added)
        return replace(self, positions=self.positions + added)

    def without(self, places: Sequence[int]) -> _Batch:
        """The rows but those at these places."""
        if not places:
            return self
        kept = [place for place in range(len(self.rows)) if place not in places]
        index = torch.tensor(kept, device=self.positions.device)
        self.turn.keep(index)
        rows, tokens = [self.rows[place] for place in kept], [self.tokens[place] for place in kept]
        return _Batch(rows, self.turn, self.positions[index], tokens)

    def joined(self, begun: _Batch) -> _Batch:
        self.turn.join(begun.turn)
        positions = torch.cat([self.positions, begun.positions])
        return _Batch(self.rows + begun.rows, self.turn, positions, self.tokens + begun.tokens)


class Decoder:
    """Continues conversations with a network that takes layouts (`fovea.kernels.layouts.allow_layouts`).

    At most `max_rows` turns are written side by side. A turn that is asked for meanwhile joins them.
    """

    def __init__(self, network: Any, renderer: Renderer, max_rows: int) -> None:
        self.reader, self.max_rows = Reader(network, renderer), max_rows
        self.drafts = Drafts()
        self.forget()

    def submit(self, conversation: Conversation, max_tokens: int) -> None:
        """Asks for the next turn of a conversation."""
        seed = conversation.turn_seed
        draws = None if seed is None else np.random.default_rng(seed)
        self._waiting.append(OpenTurn(conversation, max_tokens, draws=draws))

    def forget(self) -> None:
        """Drops the turns that have not ended, and whatever was computed of prompts."""
        self._waiting: list[OpenTurn] = []
        self._batch: _Batch | None = None
        self.reader.forget()

    def advance(self, choose: Choice) -> list[OpenTurn]:
        """Writes until turns have ended, and returns them, with their end tokens if they were written."""
        while True:
            ended: list[OpenTurn] = []
            if self._batch is not None:
                ended += self._write(choose)
            if self._are_due(few := self._waiting[: self.max_rows - self._num_rows]):
                del self._waiting[: len(few)]
                ended += self._begin(few, choose)
            assert ended or self._batch is not None, "no turn was asked for"
            if ended:
                return ended

    @property
    def _num_rows(self) -> int:
        return len(self._batch.rows) if self._batch is not None else 0

    def _are_due(self, few: Sequence[OpenTurn]) -> bool:
        """Returns True if enough turns wait: a start takes a forward of its own, so turns start together."""
        return bool(few) and len(few) * SHARE >= self._num_rows

    def _write(self, choose: Choice) -> list[OpenTurn]:
        """Feeds the chosen tokens with guesses of the next ones, and chooses. Returns the turns that have ended."""
        batch = self._batch
        assert batch is not None
        guessed = [
            self.drafts.after(row.text, min(MOST, row.max_tokens - len(row.token_ids) - 1)) for row in batch.rows
        ]
        width = 1 + median_low(map(len, guessed))  # all rows are padded to it
        guessed = [guess[: width - 1] for guess in guessed]
        fed = [
            [token, *guess, *[token] * (width - 1 - len(guess))]
            for token, guess in zip(batch.tokens, guessed, strict=True)
        ]
        device = batch.positions.device
        batch.turn.expect(width)
        places = batch.positions[:, None] + torch.arange(width, device=device)
        hidden = self.reader.backbone(batch.turn, torch.tensor(fed, device=device), places.expand(3, -1, -1))
        self._batch, ended = self._choose(batch.moved([1] * len(fed)), hidden, guessed, choose)
        return ended

    def _choose(
        self, batch: _Batch, hidden: torch.Tensor, guessed: Sequence[Sequence[int]], choose: Choice
    ) -> tuple[_Batch | None, list[OpenTurn]]:
        """Chooses behind the token that each row stands at, and behind its guesses as long as they hold.

        `hidden` is that of these tokens [rows, 1 + most guesses, D]. Returns what is still being written, and the turns
        that have ended.
        """
        head, ends = self.reader.base.get_output_embeddings(), self.reader.renderer.end_ids
        held, ended = [0] * len(batch.rows), []
        going, depth = list(range(len(batch.rows))), 0
        while going:
            rows = [batch.rows[place] for place in going]
            chosen = choose(head(hidden[going, depth]), rows).tolist()
            holding = []
            for place, row, token in zip(going, rows, chosen, strict=True):
                row.token_ids.append(token)
                batch.tokens[place], held[place] = token, depth
                if token in ends or len(row.token_ids) == row.max_tokens:
                    ended.append(place)
                elif depth < len(guessed[place]) and guessed[place][depth] == token:
                    holding.append(place)
            going, depth = holding, depth + 1
        batch = batch.moved(held)
        for place in sorted(ended):
            self._save(batch, place)
        done = [batch.rows[place] for place in sorted(ended)]
        if len(done) < len(batch.rows):
            return batch.without(ended), done
        return None, done

    def _begin(self, few: Sequence[OpenTurn], choose: Choice) -> list[OpenTurn]:
        """Reads what is not in the caches of these conversations, and chooses. Returns the turns that have ended."""
        conversations = [row.conversation for row in few]
        self.reader.prefill([c for c in conversations if c.cache is None])
        chunks = [c.token_ids[c.cache.num_seen :] for c in conversations]
        images = [c.images[c.cache.num_images :] for c in conversations]
        room = max(map(len, chunks)) + min(ROOM, max(row.max_tokens for row in few))
        turn = TurnCache([c.cache for c in conversations], room)
        starts = [c.cache.next_position for c in conversations]
        masked = [c.cache.prefix.is_masked for c in conversations]
        hidden, positions = self.reader.read(turn, chunks, images, starts, masked)
        batch = _Batch(list(few), turn, positions, [0] * len(few))
        begun, ended = self._choose(batch, hidden[:, None], [()] * len(few), choose)
        if self._batch is None or begun is None:
            self._batch = self._batch or begun
        else:
            self._batch = self._batch.joined(begun)
        return ended

    def _save(self, batch: _Batch, place: int) -> None:
        """Keeps what a row has computed, and what it wrote for guesses.

        Its last token has not been fed yet: it opens the next turn's chunk.
        """
        row = batch.rows[place]
        self.drafts.learn(row.text, len(row.token_ids))
        kept: Cache = row.conversation.cache
        layers = batch.turn.layers_of(place)
        num_seen = kept.prefix.num_tokens + layers[0].shape[1]
        num_images = len(row.conversation.images)
        row.conversation.cache = Cache(kept.prefix, layers, num_seen, num_images, int(batch.positions[place]))
