"""A batch in one row without padding, in which what its sequences share stands once.

The text that all prompts begin with comes first, then the rest of each distinct prompt, images included, then all
completions as branches (`PackedGroups`). A prompt is shared up to its last token, with which each branch opens, so
that the first completion token is predicted inside the branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

import torch

from fovea.kernels.image_blocks import image_blocks
from fovea.kernels.image_features import content_key
from fovea.kernels.layouts import PackedGroups, no_mask, rope_positions, without_adapters
from fovea.kernels.masked_layouts import OUTSIDE, BlockedGroups

Image = tuple[torch.Tensor, torch.Tensor]
"""An image for the model: pixel_values [patches, width] and grid_thw [3]."""


@dataclass
class Row:
    """One sequence without padding, and its images in order."""

    prompt_ids: list[int]
    completion_ids: list[int]
    images: list[Image]
    num_prompt_images: int

    @property
    def prompt_images(self) -> list[Image]:
        return self.images[: self.num_prompt_images]

    @property
    def prompt_key(self) -> tuple:
        """The key that rows of one prompt share: its tokens, and the content and extents of its images."""
        images = ((content_key(pixels), tuple(extent.flatten().tolist())) for pixels, extent in self.prompt_images)
        return tuple(self.prompt_ids), tuple(images)


def unpad(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    num_completion: int,
    *,
    image_token_id: int,
    merge_size: int,
    pixel_values: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
) -> list[Row]:
    """The rows of a batch without their padding; the last `num_completion` columns are completions.

    Raises:
        ValueError: if the images are not just those whose placeholders the rows hold.
    """
    images: Iterator[Image] = iter(())
    if pixel_values is not None and image_grid_thw is not None:
        images = zip(pixel_values.split(image_grid_thw.prod(-1).tolist()), image_grid_thw, strict=True)

    def images_in(ids: list[int]) -> list[Image]:
        shown: list[Image] = []
        num_missing = ids.count(image_token_id)
        while num_missing > 0 and (image := next(images, None)) is not None:
            shown.append(image)
            num_missing -= int(image[1].prod()) // merge_size**2
        if num_missing:
            raise ValueError(f"a row's {ids.count(image_token_id)} image placeholders are not those of its images")
        return shown

    rows = []
    for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        prompt, completion = (
            [token for token, shown in zip(ids[part], mask[part], strict=True) if shown]
            for part in (slice(None, -num_completion), slice(-num_completion, None))
        )
        in_prompt = images_in(prompt)
        rows.append(Row(prompt, completion, in_prompt + images_in(completion), len(in_prompt)))
    if next(images, None) is not None:
        raise ValueError("the batch has images for which no row has placeholders")
    return rows


def group_rows(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows that share prompt and images, groups in order of their first row."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.prompt_key, []).append(number)
    return list(groups.values())


def split_rows(rows: Sequence[Row], max_tokens: float) -> list[list[int]]:
    """Row numbers in parts that pack into `max_tokens` each: whole groups, or where one is larger, some of its rows.

    A row that is larger by itself makes a part of its own.
    """
    parts: list[list[int]] = []
    room = 0.0
    for group in group_rows(rows):
        prefix = len(rows[group[0]].prompt_ids) - 1
        own = [len(rows[number].completion_ids) + 1 for number in group]
        if prefix + sum(own) <= room:
            parts[-1] += group
            room -= prefix + sum(own)
            continue
        for place, (number, length) in enumerate(zip(group, own, strict=True)):
            if place == 0 or length > room:
                parts.append([])
                room = max_tokens - prefix
            parts[-1].append(number)
            room -= length
    return parts


def split_further(parts: Sequence[list[int]], number: int) -> list[list[int]]:
    """The same rows in `number` parts: the longest part is halved until there are enough."""
    parts = list(parts)
    while len(parts) < number:
        longest = max(range(len(parts)), key=lambda place: len(parts[place]))
        rows, middle = parts[longest], len(parts[longest]) // 2
        parts[longest : longest + 1] = [rows[:middle], rows[middle:]]
    return parts


def num_common(prompts: Sequence[Sequence[int]], image_token_id: int) -> int:
    """The number of text tokens that begin all prompts. At least two tokens of each prompt are left out."""
    same = takewhile(lambda tokens: set(tokens) == {tokens[0]} - {image_token_id}, zip(*prompts, strict=False))
    return max(0, min(sum(1 for _ in same), min(map(len, prompts)) - 2))


@dataclass
class Packed:
    """One row for the model, and where its predictions belong in the batch.

    Token `predicting[i]` of the row predicts entry [`rows[i]`, `columns[i]`] of the batch's completions [B, T].
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    predicting: torch.Tensor


class _Line:
    """The one row while it is written: token ids [N], their M-RoPE positions [3, N], and the images in it."""

    def __init__(self, network: Any, image_token_id: int) -> None:
        self.network, self.image_token_id = network, image_token_id
        self.blocks = image_blocks(network)
        self.ids: list[int] = []
        self.numbers: list[int] = []
        """For each token the number of the image whose tokens alone it attends to in masked layers."""
        self.positions: list[torch.Tensor] = []
        self.images: list[Image] = []

    def append(self, ids: list[int], images: list[Image], part: slice, *, new_images: Sequence[Image] = ()) -> None:
        """Appends a part of a sequence at the positions that it has there; `new_images` are those in the part."""
        positions = rope_positions(self.network, ids, self.image_token_id, [grid for _, grid in images])
        self.ids += ids[part]
        self.numbers += (self.blocks.images_of(ids) if self.blocks else [OUTSIDE] * len(ids))[part]
        self.positions.append(positions[:, part])
        self.images += new_images

    def inputs(
        self, common: int, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device
    ) -> dict[str, Any]:
        """Arguments of the model's forward, without labels. The lengths are those of `PackedGroups`."""
        layout = PackedGroups(common, prefixes, branches, device)
        if self.blocks is not None and any(number != OUTSIDE for number in self.numbers):
            layout = BlockedGroups(layout, self.numbers, self.blocks.layers)
        inputs: dict[str, Any] = {
            "layout": layout,
            "input_ids": torch.tensor([self.ids], device=device),
            "position_ids": torch.cat(self.positions, dim=1)[:, None].to(device),
            "attention_mask": no_mask(self.network),
        }
        if self.images:
            inputs["pixel_values"] = torch.cat([pixels for pixels, _ in self.images]).to(device)
            inputs["image_grid_thw"] = torch.stack([grid for _, grid in self.images]).to(device)
        return inputs


def pack(network: Any, batch: Sequence[Row], *, image_token_id: int, stand_in: Row | None = None) -> Packed:
    """All rows of a batch in one: what all prompts begin with, the rest of each prompt, then every completion.

    `stand_in` joins a batch without any image: where processes run the vision tower together, none may leave it out.
    """
    if stand_in is not None and not any(row.images for row in batch):
        batch = [*batch, stand_in]
    base = without_adapters(network)
    device = base.device
    groups = group_rows(batch)
    firsts = [batch[group[0]] for group in groups]
    common = num_common([first.prompt_ids for first in firsts], image_token_id) if len(firsts) > 1 else 0
    line = _Line(base, image_token_id)
    line.append(firsts[0].prompt_ids, firsts[0].prompt_images, slice(common))
    for first in firsts:
        line.append(first.prompt_ids, first.prompt_images, slice(common, -1), new_images=first.prompt_images)
    rows: list[int] = []
    columns: list[int] = []
    predicting: list[int] = []
    labels: list[int] = []
    for number in chain.from_iterable(groups):
        row = batch[number]
        start, length = len(line.ids), len(row.completion_ids)
        branch = slice(len(row.prompt_ids) - 1, None)
        new_images = row.images[row.num_prompt_images :]
        line.append(row.prompt_ids + row.completion_ids, row.images, branch, new_images=new_images)
        rows += [number] * length
        columns += range(length)
        predicting += range(start, start + length)
        labels += row.completion_ids
    prefixes = [len(first.prompt_ids) - 1 - common for first in firsts]
    branches = [[len(batch[number].completion_ids) + 1 for number in group] for group in groups]
    shift_labels = torch.full((1, len(line.ids)), -100, device=device)
    shift_labels[0, predicting] = torch.tensor(labels, device=device)
    inputs = line.inputs(common, prefixes, branches, device) | {"shift_labels": shift_labels}
    return Packed(inputs, *(torch.tensor(places, device=device) for places in (rows, columns, predicting)))
