"""Log-probabilities of a batch of rollouts, with what a group shares computed once.

Each group's prompt, images included, is forwarded once and all completions behind as branches (`PackedGroups`). The
prefix ends one token before the prompt does: each branch opens with the prompt's last token, so that the first
completion token is predicted inside the branch. Rows are grouped by what they share, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from environments.rendering import Renderer
from fovea.features import content_key
from fovea.shared_prefix import PackedGroups, no_mask, rope_positions, without_adapters


@dataclass
class Rollout:
    """One row without its padding; `images` are its (pixel_values [patches, width], grid_thw [3]) in order."""

    prompt_ids: list[int]
    completion_ids: list[int]
    images: list[tuple[torch.Tensor, torch.Tensor]]
    num_prompt_images: int

    @property
    def prompt_key(self) -> tuple:
        shown = self.images[: self.num_prompt_images]
        return tuple(self.prompt_ids), tuple(content_key(pixels) for pixels, _ in shown)


def smallest_picture(renderer: Renderer) -> Rollout:
    """A rollout of one tiny image and one token, to stand in where a batch has no image."""
    inputs = renderer.image_inputs(Image.new("RGB", (8, 8)))
    start, end = renderer.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    ids = [start, *[renderer.image_token_id] * inputs.num_tokens(renderer.merge_size), end]
    return Rollout(ids, [renderer.tokenizer.eos_token_id], [(inputs.pixel_values, inputs.grid_thw)], 1)


def unpad(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    num_completion: int,
    *,
    image_token_id: int,
    merge_size: int,
    pixel_values: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    num_images: Sequence[int] | None = None,
) -> list[Rollout]:
    """The rows of TRL's batch: prompts padded on the left, the last `num_completion` columns on the right."""
    images: list[tuple[torch.Tensor, torch.Tensor]] = []
    if pixel_values is not None and image_grid_thw is not None:
        images = list(zip(pixel_values.split(image_grid_thw.prod(-1).tolist()), image_grid_thw, strict=True))
    counts = list(num_images) if images and num_images is not None else [0] * len(input_ids)
    rollouts, start = [], 0
    for ids, mask, count in zip(input_ids.tolist(), attention_mask.tolist(), counts, strict=True):
        kept = [
            [token for token, shown in zip(ids[part], mask[part], strict=True) if shown]
            for part in (slice(None, -num_completion), slice(-num_completion, None))
        ]
        shown = images[start : start + count]
        start += count
        left, in_prompt = kept[0].count(image_token_id), 0
        while left > 0:
            left -= int(shown[in_prompt][1].prod()) // merge_size**2
            in_prompt += 1
        rollouts.append(Rollout(kept[0], kept[1], shown, in_prompt))
    return rollouts


def group_rows(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Row numbers of rollouts that share prompt and images, groups in order of their first row."""
    groups: dict[tuple, list[int]] = {}
    for row, rollout in enumerate(rollouts):
        groups.setdefault(rollout.prompt_key, []).append(row)
    return list(groups.values())


def split_rows(rollouts: Sequence[Rollout], max_tokens: float) -> list[list[int]]:
    """Row numbers in parts that pack into `max_tokens` each: whole groups, or where one is larger, some of its rows.

    A row that is larger by itself makes a part of its own.
    """
    parts: list[list[int]] = []
    room = 0.0
    for group in group_rows(rollouts):
        prefix = len(rollouts[group[0]].prompt_ids) - 1
        own = [len(rollouts[row].completion_ids) + 1 for row in group]
        if prefix + sum(own) <= room:
            parts[-1] += group
            room -= prefix + sum(own)
            continue
        for place, (row, length) in enumerate(zip(group, own, strict=True)):
            if place == 0 or length > room:
                parts.append([])
                room = max_tokens - prefix
            parts[-1].append(row)
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


@dataclass
class Packed:
    """One row for the model, and where its predictions belong in the batch; `unread` are predictions of no rollout."""

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    predicting: torch.Tensor
    unread: torch.Tensor


def pack(network: Any, rollouts: Sequence[Rollout], *, image_token_id: int, stand_in: Rollout | None = None) -> Packed:
    """All rollouts in one row; token `predicting[i]` of it predicts entry [rows[i], columns[i]] of the batch.

    `stand_in` joins a batch without any image: where processes run the vision tower together, none may leave it out.
    """
    num_rollouts = len(rollouts)
    if stand_in is not None and not any(rollout.images for rollout in rollouts):
        rollouts = [*rollouts, stand_in]
    base = without_adapters(network)
    device = base.device
    ids: list[int] = []
    positions: list[torch.Tensor] = []
    images: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows: list[int] = []
    columns: list[int] = []
    predicting: list[int] = []
    labels: list[int] = []
    groups = group_rows(rollouts)
    firsts = [rollouts[group[0]] for group in groups]
    for first in firsts:
        shown = first.images[: first.num_prompt_images]
        places = rope_positions(base, first.prompt_ids, image_token_id, [grid for _, grid in shown])
        ids += first.prompt_ids[:-1]
        positions.append(places[:, :-1])
        images += shown
    for group in groups:
        for row in group:
            rollout = rollouts[row]
            split, length = len(rollout.prompt_ids) - 1, len(rollout.completion_ids)
            sequence = rollout.prompt_ids + rollout.completion_ids
            places = rope_positions(base, sequence, image_token_id, [grid for _, grid in rollout.images])
            predicting += range(len(ids), len(ids) + length)
            rows += [row] * length
            columns += range(length)
            labels += rollout.completion_ids
            ids += sequence[split:]
            positions.append(places[:, split:])
            images += rollout.images[rollout.num_prompt_images :]
    where = torch.tensor(predicting, device=device)
    shift_labels = torch.full((1, len(ids)), -100, device=device)
    shift_labels[0, where] = torch.tensor(labels, device=device)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.cat(positions, dim=1)[:, None].to(device),
        "attention_mask": no_mask(base),
        "shift_labels": shift_labels,
        "layout": PackedGroups(
            [len(first.prompt_ids) - 1 for first in firsts],
            [[len(rollouts[row].completion_ids) + 1 for row in group] for group in groups],
            device,
        ),
    }
    if images:
        inputs["pixel_values"] = torch.cat([pixels for pixels, _ in images])
        inputs["image_grid_thw"] = torch.stack([grid for _, grid in images])
    at_row, at_column = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
    read = at_row < num_rollouts
    return Packed(inputs, at_row[read], at_column[read], where[read], where[~read])
