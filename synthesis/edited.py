"""Pictures in which what was asked about is changed: `fovea tasks edited --dataset_name tasks.jsonl --output_dir DIR`.

A model that looks follows the change; one that answers from the question, or from what it saw before, does not
(`fovea analyse edits`). Each task says in `metadata.edits` what can be changed and the answer that is right then. An
edit is made in one of the task's own boxes:

    {"kind": "paint", "target": 0, "answer": "2"}                          fill the box with the colours around it
    {"kind": "recolour", "target": 0, "turn": 120, "answer": "green"}      turn its hues by so many degrees
    {"kind": "swap", "target": 0, "with": "b", "with_target": 0, "answer": "7"}   put the detail of another task there

Without a --dataset_name the tasks are procedural scenes whose digits are redrawn. Written are the tasks that have edits
and, behind each, its edited ones, whose `metadata.edit` names the task and the answer before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fovea.answers import score, written
from fovea.arguments import TaskArguments
from fovea.boxes import Box, Frame
from fovea.commands import refuse_written
from fovea.config import ConfigError, parse
from fovea.data.task_files import save_tasks
from fovea.images import cut, open_image, pixels_under
from fovea.tasks import AnswerKind, Task
from synthesis.shapes.scenes import draw_digit
from synthesis.shapes.tasks import encode, make_tasks

BEFORE = ("edits", "readings", "sub_answers")
"""Entries of metadata that an edited task does not keep: they say what was right before."""
KINDS = ("paint", "recolour", "swap", "digits")


@dataclass(kw_only=True)
class EditArguments(TaskArguments):
    """The tasks to edit."""

    dataset_name: str = field(
        default="",
        metadata={"help": "Tasks with metadata.edits: file, folder, hub id or module:function (default: scenes)."},
    )
    output_dir: str = field(metadata={"help": "Folder for tasks.jsonl and the pictures."})
    num_tasks: int = field(default=200, metadata={"help": "Scenes to draw where no tasks are named."})
    seed: int = field(default=5, metadata={"help": "Seed of the scenes."})


def scenes_to_edit(num_tasks: int, seed: int) -> list[Task]:
    """Tasks on procedural scenes, each with an edit of the digits that it asks for."""
    tasks: list[Task] = []
    rng = np.random.default_rng(seed)
    for task in make_tasks(num_tasks=2 * num_tasks, seed=seed, prefix="edited"):
        if len(tasks) < num_tasks and task.metadata.get("glyphs"):
            tasks.append(replace(task, metadata={**task.metadata, "edits": [_other_digits(task, rng)]}))
    return tasks


def _other_digits(task: Task, rng: np.random.Generator) -> dict[str, Any]:
    """Another digit in place of the one that is read; of two that are compared, each in place of the other."""
    if task.kind is AnswerKind.YES_NO:
        answer = "no" if task.answer == "yes" else "yes"
        digits = [int(digit) for digit in reversed(task.metadata["readings"])]
        return {"kind": "digits", "digits": digits, "answer": answer}
    digit = int(rng.choice([digit for digit in range(10) if str(digit) != str(task.answer)]))
    return {"kind": "digits", "digits": [digit], "answer": str(digit)}


def edited(task: Task, number: int, others: Mapping[str, Task]) -> Task:
    """The task after edit `number` of its own; `others` are the tasks whose details can be put there, by id.

    Raises:
        ValueError: for an edit that cannot be made, or after which the old answer would still be right.
    """
    edit = task.metadata["edits"][number]
    place = f"task {task.id}, metadata.edits[{number}]"
    if not isinstance(edit, Mapping) or edit.get("kind") not in KINDS or "answer" not in edit:
        raise ValueError(f"{place} is {edit!r}: write kind (one of {', '.join(KINDS)}), target and answer")
    if edit["kind"] == "digits":
        glyphs, digits = task.metadata.get("glyphs"), edit.get("digits")
        if not glyphs or not digits:
            raise ValueError(f"{place}: digits are redrawn in scenes of ours alone, which have glyphs and digits")
        img_idx, image = 0, open_image(task.images[0]).copy()
        for corners, digit in zip(glyphs, digits, strict=True):
            draw_digit(image, Box.of(corners, Frame.UNIT), digit, np.random.default_rng([number, digit]))
    else:
        target = edit.get("target")
        if type(target) is not int or not 0 <= target < len(task.boxes):
            raise ValueError(f"{place}: target is {target!r}, and the task has {len(task.boxes)} boxes, from 0")
        img_idx = task.boxes[target].img_idx
        image = open_image(task.images[img_idx]).convert("RGB")
        _EDITS[edit["kind"]](image, task.boxes[target].box, edit, others, place)
    images = tuple(encode(image) if n == img_idx else source for n, source in enumerate(task.images))
    metadata = {key: value for key, value in task.metadata.items() if key not in BEFORE}
    metadata["edit"] = {"of": task.id, "kind": edit["kind"], "was": written(task)}
    changed = replace(task, id=f"{task.id}-edit{number}", images=images, answer=edit["answer"], metadata=metadata)
    if score(changed, written(task)) > 0:
        raise ValueError(
            f"{place}: {task.answer!r} still scores against {edit['answer']!r}, so that the edit changes nothing: "
            "give another answer"
        )
    return changed


def _paint(image: Image.Image, box: Box, edit: Mapping[str, Any], others: Mapping[str, Task], place: str) -> None:
    """Fills the box from its rim inwards: each pixel is the mean of those on the rim, the nearer the more."""
    left, top, right, bottom = pixels_under(box, image.size)
    around = np.asarray(image.crop((left - 1, top - 1, right + 1, bottom + 1)), dtype=float)
    inside = _inside(image.size, (left, top, right, bottom))
    sides = {
        "left": (around[1:-1, :1], np.arange(1, right - left + 1)[None, :, None]),
        "right": (around[1:-1, -1:], np.arange(right - left, 0, -1)[None, :, None]),
        "top": (around[:1, 1:-1], np.arange(1, bottom - top + 1)[:, None, None]),
        "bottom": (around[-1:, 1:-1], np.arange(bottom - top, 0, -1)[:, None, None]),
    }
    kept = {name: side for name, side in sides.items() if inside[name]}
    if not kept:
        raise ValueError(
            f"{place}: the box is the whole image, and nothing around it is left to paint with: give a smaller box"
        )
    weights = sum(1 / distance for _, distance in kept.values())
    filled = sum(colour / distance for colour, distance in kept.values()) / weights
    filled = np.broadcast_to(filled, (bottom - top, right - left, 3))
    image.paste(Image.fromarray(filled.round().astype(np.uint8)), (left, top))


def _inside(size: tuple[int, int], corners: tuple[int, int, int, int]) -> dict[str, bool]:
    """On which sides of a region there is more of the image."""
    (width, height), (left, top, right, bottom) = size, corners
    return {"left": left > 0, "right": right < width, "top": top > 0, "bottom": bottom < height}


def _recolour(image: Image.Image, box: Box, edit: Mapping[str, Any], others: Mapping[str, Task], place: str) -> None:
    turn = edit.get("turn")
    if isinstance(turn, bool) or not isinstance(turn, (int, float)) or not turn % 360 > 0:
        raise ValueError(f"{place}: turn is {turn!r}: give the degrees by which hues are turned, such as 120")
    corners = pixels_under(box, image.size)
    hue, *rest = image.crop(corners).convert("HSV").split()
    turned = hue.point([(level + round(turn * 256 / 360)) % 256 for level in range(256)])
    image.paste(Image.merge("HSV", (turned, *rest)).convert("RGB"), corners[:2])


def _swap(image: Image.Image, box: Box, edit: Mapping[str, Any], others: Mapping[str, Task], place: str) -> None:
    other, number = others.get(str(edit.get("with"))), edit.get("with_target", 0)
    if other is None or type(number) is not int or not 0 <= number < len(other.boxes):
        raise ValueError(
            f"{place}: with is {edit.get('with')!r}, with_target {number!r}: name another task, and one of its boxes"
        )
    target = other.boxes[number]
    left, top, right, bottom = pixels_under(box, image.size)
    detail = cut(open_image(other.images[target.img_idx]), target.box).convert("RGB")
    image.paste(detail.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))


_EDITS = {"paint": _paint, "recolour": _recolour, "swap": _swap}


def with_edits(tasks: Sequence[Task]) -> Iterator[Task]:
    """The tasks that have edits, each before its edited ones.

    Raises:
        ValueError: if none has, or one of the edits cannot be made.
    """
    others = {task.id: task for task in tasks}
    editable = [task for task in tasks if task.metadata.get("edits")]
    if not editable:
        raise ValueError("no task has metadata.edits: see fovea tasks edited --help for their form")
    for task in editable:
        if not isinstance(task.metadata["edits"], (list, tuple)):
            raise ValueError(f"task {task.id}: metadata.edits is {task.metadata['edits']!r:.100}, not a list of edits")
        yield replace(task, metadata={key: value for key, value in task.metadata.items() if key != "edits"})
        yield from (edited(task, number, others) for number in range(len(task.metadata["edits"])))


def main() -> None:
    (arguments,) = parse((EditArguments,), description=__doc__)
    folder = Path(arguments.output_dir)
    refuse_written(folder / "tasks.jsonl")
    try:
        if arguments.dataset_name:
            tasks = arguments.read_tasks(arguments.dataset_name, limit=arguments.max_tasks)
        else:
            tasks = scenes_to_edit(arguments.num_tasks, arguments.seed)
        made = list(with_edits(tasks))
    except (FileNotFoundError, ValueError, ConfigError) as error:
        raise SystemExit(str(error)) from error
    save_tasks(made, folder)
    print(
        f"{len(made)} tasks, {sum('edit' in task.metadata for task in made)} of them edited: {folder / 'tasks.jsonl'}"
    )


if __name__ == "__main__":
    main()
