"""A batch in one row without padding, in which what its sequences share stands once.

The text that all prompts begin with comes first, then the rest of each distinct prompt, images included, then all
completions as branches (`PackedGroups`). A prompt is shared up to its last token, with which each branch opens, so
that the first completion token is predicted inside the branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from fovea.kernels.image_features import content_key
from fovea.kernels.layouts import PackedGroups, no_mask, rope_positions, without_adapters


@dataclass
class Row:
    """One sequence without padding; `images` are its (pixel_values [patches, width], grid_thw [3]) in order."""

    prompt_ids: list[int]
    completion_ids: list[int]
    images: list[tuple[torch.Tensor, torch.Tensor]]
    num_prompt_images: int

    @property
    def prompt_key(self) -> tuple:
        shown = self.images[: self.num_prompt_images]
        return tuple(self.prompt_ids), tuple(content_key(pixels) for pixels, _ in shown)


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
    images: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
    if pixel_values is not None and image_grid_thw is not None:
        images = zip(pixel_values.split(image_grid_thw.prod(-1).tolist()), image_grid_thw, strict=True)

    def shown_in(ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found, left = [], ids.count(image_token_id)
        while left > 0 and (image := next(images, None)) is not None:
            found.append(image)
            left -= int(image[1].prod()) // merge_size**2
        if left:
            raise ValueError(f"a row's {ids.count(image_token_id)} image placeholders are not those of its images")
        return found

    rows = []
    for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        prompt, completion = (
            [token for token, shown in zip(ids[part], mask[part], strict=True) if shown]
            for part in (slice(None, -num_completion), slice(-num_completion, None))
        )
        in_prompt = shown_in(prompt)
        rows.append(Row(prompt, completion, in_prompt + shown_in(completion), len(in_prompt)))
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
    """The same rows in `number` parts, the longest of them halved until there are so many."""
    parts = list(parts)
    while len(parts) < number:
        longest = max(range(len(parts)), key=lambda place: len(parts[place]))
        rows, middle = parts[longest], len(parts[longest]) // 2
        parts[longest : longest + 1] = [rows[:middle], rows[middle:]]
    return parts


def num_common(prompts: Sequence[Sequence[int]], image_token_id: int) -> int:
    """How many tokens of text all prompts begin with; at least two of each prompt are left out of it."""
    same = takewhile(lambda tokens: set(tokens) == {tokens[0]} - {image_token_id}, zip(*prompts, strict=False))
    return max(0, min(sum(1 for _ in same), min(map(len, prompts)) - 2))


@dataclass
class Packed:
    """One row for the model, and where its predictions belong in the batch."""

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    predicting: torch.Tensor


def pack(network: Any, batch: Sequence[Row], *, image_token_id: int, stand_in: Row | None = None) -> Packed:
    """All rows in one; token `predicting[i]` of it predicts entry [rows[i], columns[i]] of the batch's completions.

    `stand_in` joins a batch without any image: where processes run the vision tower together, none may leave it out.
    """
    if stand_in is not None and not any(row.images for row in batch):
        batch = [*batch, stand_in]
    base = without_adapters(network)
    device = base.device
    groups = group_rows(batch)
    firsts = [batch[group[0]] for group in groups]
    common = num_common([first.prompt_ids for first in firsts], image_token_id) if len(firsts) > 1 else 0
    ids = firsts[0].prompt_ids[:common]
    positions = [torch.arange(common).expand(3, -1)]
    images: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows: list[int] = []
    columns: list[int] = []
    predicting: list[int] = []
    labels: list[int] = []
    for first in firsts:
        shown = first.images[: first.num_prompt_images]
        places = rope_positions(base, first.prompt_ids, image_token_id, [grid for _, grid in shown])
        ids = ids + first.prompt_ids[common:-1]
        positions.append(places[:, common:-1])
        images += shown
    for number in (number for group in groups for number in group):
        row = batch[number]
        split, length = len(row.prompt_ids) - 1, len(row.completion_ids)
        whole = row.prompt_ids + row.completion_ids
        places = rope_positions(base, whole, image_token_id, [grid for _, grid in row.images])
        predicting += range(len(ids), len(ids) + length)
        rows += [number] * length
        columns += range(length)
        labels += row.completion_ids
        ids += whole[split:]
        positions.append(places[:, split:])
        images += row.images[row.num_prompt_images :]
    where = torch.tensor(predicting, device=device)
    shift_labels = torch.full((1, len(ids)), -100, device=device)
    shift_labels[0, where] = torch.tensor(labels, device=device)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.cat(positions, dim=1)[:, None].to(device),
        "attention_mask": no_mask(base),
        "shift_labels": shift_labels,
        "layout": PackedGroups(
            common,
            [len(first.prompt_ids) - 1 - common for first in firsts],
            [[len(batch[number].completion_ids) + 1 for number in group] for group in groups],
            device,
        ),
    }
    if images:
        inputs["pixel_values"] = torch.cat([pixels for pixels, _ in images]).to(device)
        inputs["image_grid_thw"] = torch.stack([grid for _, grid in images]).to(device)
    return Packed(inputs, torch.tensor(rows, device=device), torch.tensor(columns, device=device), where)
