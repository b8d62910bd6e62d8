"""Conversations as model inputs: token ids, where each answer lies, and what every visual token shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from fovea.boxes import Box
from fovea.placeholders import IMAGE_LABEL
from synthesis.tiny.architecture import TOKEN_PX
from synthesis.tiny.conversations import Exchange, Picture
from synthesis.tiny.losses import NUM_BINS
from synthesis.tiny.targets import dense_targets, tokens_under

IMAGE = "<|vision_start|>{}<|vision_end|>"


@dataclass(frozen=True)
class Look:
    """While writing tokens `first` to `last` (excluded), the answer lies under the visual `tokens`."""

    first: int
    last: int
    tokens: list[int]


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens."""

    ids: list[int]
    labels: list[int]
    """-100 where there is no loss."""
    looks: list[Look]
    numbered: list[tuple[int, int, int]]
    """Of the pictures of an album: their first token, the one behind their last, and their number."""
    looked_in: list[tuple[int, int, int]]
    """Of answers that lie in one picture of an album: the tokens that write them, and the picture's number."""


def _under(target: Box, start: int, grid: tuple[int, int]) -> list[int]:
    """Positions in the sequence of the visual tokens under `target`, of an image whose tokens begin at `start`."""
    rows, columns = tokens_under(target, *grid, margin=0.25)
    numbers = np.arange(grid[0] * grid[1]).reshape(grid)[rows, columns]
    return (start + numbers.ravel()).tolist()


class Encoder:
    """Conversations to token ids, labels and dense targets."""

    def __init__(self, processor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.ids = lru_cache(200_000)(lambda text: tuple(self.tokenizer(text, add_special_tokens=False).input_ids))

    def encode(self, exchanges: list[Exchange], *, filler: str = "") -> Encoded:
        """One conversation as tokens."""
        ids = list(self.ids(f"<|im_start|>system\n{filler}<|im_end|>\n")) if filler else []
        labels, looks = [-100] * len(ids), []
        shown: list[tuple[int, tuple[int, int]]] = []
        album: list[tuple[int, tuple[int, int]]] = []
        numbered: list[tuple[int, int, int]] = []
        looked_in: list[tuple[int, int, int]] = []
        start, end = self.ids(IMAGE.format(""))
        for exchange in exchanges:
            asked = list(self.ids("<|im_start|>user\n"))
            for number, picture in enumerate(exchange.pictures):
                rows, columns = (side // TOKEN_PX for side in picture.pixels.shape[:2])
                asked += self.ids(IMAGE_LABEL.format(number)) if exchange.album else ()
                first = len(ids) + len(asked) + 1
                shown.append((first, (rows, columns)))
                numbered += [(first, first + rows * columns, number)] if exchange.album else []
                asked += [start, *[self.image_id] * (rows * columns), end]
                asked += self.ids("\n") if exchange.album else ()
            album = shown[-len(exchange.pictures) :] if exchange.album else album
            asked += [*self.ids(exchange.question), *self.ids("<|im_end|>\n<|im_start|>assistant\n")]
            answer = [*self.ids(exchange.answer), *self.ids("<|im_end|>")]
            newline = list(self.ids("\n"))
            first = len(ids) + len(asked) - 1
            places = [album[number] for number, _ in exchange.looks]
            targets = [box for _, box in exchange.looks]
            if exchange.target is not None and shown:
                places.append(shown[0 if exchange.in_first else -1])
                targets.append(exchange.target)
            if len({number for number, _ in exchange.looks}) == 1:
                looked_in.append((first, first + len(answer) - 1, exchange.looks[0][0]))
            if targets:
                under = [_under(box, *place) for box, place in zip(targets, places, strict=True)]
                looks.append(Look(first, first + len(answer) - 1, [token for tokens in under for token in tokens]))
            ids += asked + answer + newline
            labels += [-100] * len(asked) + answer + [-100] * len(newline)
        return Encoded(ids, labels, looks, numbered, looked_in)

    def batch(self, conversations: list[list[Exchange]], *, filler: str) -> dict[str, torch.Tensor]:
        """Right-padded model inputs; `labels`, `numbers` and `looked_in` [B, N], `looks` [B, N, N], `dense` [T, 7].

        `numbers` are those of the pictures of albums at their tokens, `looked_in` those of the pictures in which an
        answer lies at the tokens at which it is written; -100 elsewhere.
        """
        encoded = [self.encode(conversation, filler=filler) for conversation in conversations]
        length = max(len(one.ids) for one in encoded)
        input_ids = torch.full((len(encoded), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(encoded), length), -100)
        attention_mask = torch.zeros((len(encoded), length), dtype=torch.long)
        looks = torch.zeros((len(encoded), length, length), dtype=torch.bool)
        numbers, looked_in = (torch.full((len(encoded), length), -100) for _ in range(2))
        for row, one in enumerate(encoded):
            input_ids[row, : len(one.ids)] = torch.tensor(one.ids)
            labels[row, : len(one.ids)] = torch.tensor(one.labels)
            attention_mask[row, : len(one.ids)] = 1
            for look in one.looks:
                looks[row, look.first : look.last, look.tokens] = True
            for spans, target in ((one.numbered, numbers), (one.looked_in, looked_in)):
                for first, last, number in spans:
                    target[row, first:last] = number
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "mm_token_type_ids": (input_ids == self.image_id).long(),
            "looks": looks,
            "numbers": numbers,
            "looked_in": looked_in,
            **self.images([picture for c in conversations for e in c for picture in e.pictures]),
        }

    def images(self, pictures: list[Picture]) -> dict[str, torch.Tensor]:
        """`pixel_values`, `image_grid_thw` and `dense` [vision tokens, 7] of pictures."""
        images = [torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1) for picture in pictures]
        pixels = self.processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        dense = np.concatenate([dense_targets(p, token_px=TOKEN_PX, num_bins=NUM_BINS) for p in pictures])
        return {**pixels, "dense": torch.from_numpy(dense)}
