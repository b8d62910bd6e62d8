"""Answers that are boxes, in whatever form and frame a model writes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from fovea.answers.text import as_list
from fovea.boxes import Frame, Framing, iou
from fovea.tasks import Target, Task

_BOX_KEYS = ("bbox_2d", "bbox", "box", "box_2d", "coordinates")
_DECIMAL = r"\s*(-?\d+(?:\.\d+)?)\s*"
_IN_BRACKETS = re.compile(rf"[\[(<{{]{','.join([_DECIMAL] * 4)}[\])>}}]")
_IN_PAIRS = re.compile(rf"[(\[]{_DECIMAL},{_DECIMAL}[)\]]\s*,?\s*[(\[]{_DECIMAL},{_DECIMAL}[)\]]")
_ALONE = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)")


def boxes_in(text: str) -> list[tuple[tuple[float, ...], int | None]]:
    """The boxes that a text holds, four numbers each, and the image that each one names, if it does.

    JSON of any depth (Qwen's `[{"bbox_2d": [x1, y1, x2, y2], "label": "…"}]`), brackets, pairs of points, or four
    numbers alone.

    >>> boxes_in('[{"bbox_2d": [1, 2, 3, 4], "label": "cup 2"}]'), boxes_in("bbox_2d of 3 cups")
    ([((1.0, 2.0, 3.0, 4.0), None)], [])
    """
    with suppress(RecursionError):
        if boxes := [box for data in _json_values(text) for box in _boxes_of(data)]:
            return boxes
    for pattern in (_IN_BRACKETS, _IN_PAIRS):
        if matches := [numbers for numbers in (tuple(map(float, groups)) for groups in pattern.findall(text))]:
            return [(numbers, None) for numbers in matches if is_four_numbers(numbers)]
    bare_numbers = tuple(map(float, _ALONE.findall(text)))
    return [(bare_numbers, None)] if is_four_numbers(bare_numbers) else []


def _json_values(text: str) -> Iterator[Any]:
    """The JSON lists and objects in a text, one after the other."""
    position = 0
    while match := re.compile(r"[\[{]").search(text, position):
        try:
            data, position = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            position = match.start() + 1
        else:
            yield data


def _boxes_of(data: Any, image: int | None = None) -> Iterator[tuple[tuple[float, ...], int | None]]:
    """Boxes anywhere in JSON."""
    if isinstance(data, dict):
        named_image = data.get("img_idx", image)
        named_image = named_image if isinstance(named_image, int) and not isinstance(named_image, bool) else image
        for value in (data[key] for key in _BOX_KEYS if key in data):
            yield from _boxes_of(value, named_image)
        if not any(key in data for key in _BOX_KEYS):
            for value in data.values():
                yield from _boxes_of(value, named_image)
    elif isinstance(data, list) and is_four_numbers(data):
        yield tuple(map(float, data)), image
    elif isinstance(data, list):
        for value in data:
            yield from _boxes_of(value, image)


def is_four_numbers(value: Any) -> bool:
    """Returns True for a list of four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_finite, value))


def is_finite(value: Any) -> bool:
    """Returns True for a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def reference_boxes(task: Task) -> list[Target]:
    """The boxes of a reference of kind box, in UNIT: as loading leaves it, a list of `Target.to_dict()`.

    Raises:
        ValueError: for anything else.
    """
    try:
        targets = [Target.from_dict(item) for item in as_list(task.answer)]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"reference {task.answer!r} of task {task.id} is no box with its frame: "
            '{"coordinates": [x1, y1, x2, y2], "frame": "unit"}'
        ) from None
    if any(target.box.frame is not Frame.UNIT for target in targets):
        raise ValueError(
            f"reference {task.answer!r} of task {task.id} is not in frame unit: load the task with "
            "fovea.data.task_files, which converts it"
        )
    return targets


def written_boxes(targets: Sequence[Target], framing: Framing) -> str:
    """Boxes as an answer in the frame of a model: one as four numbers, several as a list of such."""
    boxes = [framing.write(target.box, target.img_idx) for target in targets]
    return json.dumps(boxes[0] if len(boxes) == 1 else boxes)


def answer_boxes(task: Task, answer: str, framing: Framing | None) -> list[Target]:
    """The boxes of an answer in UNIT, those without an area left out.

    Raises:
        ValueError: if it is not known in which frame they are written.
    """
    boxes = boxes_in(answer)
    if not boxes:
        return []
    if framing is None:
        raise ValueError(
            f"task {task.id} asks for a box, and in which frame the model wrote its own is not known. Give the "
            "environment a property framing (docs/my_environment.md); play a run of before version 0.2 again"
        )
    reference_images = {target.img_idx for target in reference_boxes(task)}
    default_image = reference_images.pop() if len(reference_images) == 1 else 0
    targets = []
    for numbers, image in boxes:
        image = default_image if image is None or not 0 <= image < max(1, len(task.images)) else image
        box = framing.read(numbers, image)
        if not box.is_empty:
            targets.append(Target(box, image))
    return targets


def _as_writable(target: Target, framing: Framing) -> Target:
    """The target in the whole units of a model's frame, unless nothing were left of it."""
    rounded_box = framing.read(framing.write(target.box, target.img_idx), target.img_idx)
    return target if rounded_box.is_empty else Target(rounded_box, target.img_idx)


def box_score(task: Task, answer: str, framing: Framing | None) -> float:
    """Mean IoU of the best matching between reference and answer boxes; each one too many or too few counts as 0.

    References are rounded as the model has to round, so that the best that it can write scores 1.
    """
    answered_boxes = answer_boxes(task, answer, framing)
    if framing is None or not answered_boxes:
        return 0.0
    expected_boxes = [_as_writable(target, framing) for target in reference_boxes(task)]
    overlaps = [[iou(a.box, b.box) if a.img_idx == b.img_idx else 0.0 for b in answered_boxes] for a in expected_boxes]
    num_boxes = max(len(expected_boxes), len(answered_boxes))
    if min(len(expected_boxes), len(answered_boxes)) == 1:
        return max(max(row) for row in overlaps) / num_boxes
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return sum(overlaps[row][column] for row, column in zip(rows, columns, strict=True)) / num_boxes
