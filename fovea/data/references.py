"""References and boxes of tasks as they enter: read in the file's frame, checked, and put into ours once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fovea.answers import checked_reference, verify_reference
from fovea.answers.boxes import boxes_in, is_four_numbers
from fovea.answers.numbers import is_number
from fovea.boxes import Box, Frame, View
from fovea.chains import chain_of_task
from fovea.data.columns import TaskError
from fovea.images import image_size
from fovea.tasks import AnswerKind, Target, Task


def checked(task: Task) -> Task:
    """The task with its boxes in UNIT and its reference as its rule reads it. Every task goes through here once.

    Images are opened for boxes in pixels alone, and only as far as their headers.

    Raises:
        TaskError: for boxes, a reference or a chain that cannot be used, with the reason.
    """
    boxes = tuple(_in_unit(target, task) for target in task.boxes)
    try:
        if task.kind is AnswerKind.BOX:
            targets = [_in_unit(target_of(box), task) for box in _box_list(task.answer)]
            task = replace(task, boxes=boxes, answer=[target.to_dict() for target in targets])
        else:
            task = replace(task, boxes=boxes, answer=checked_reference(task))
        verify_reference(task)
        chain_of_task(task)
    except TaskError:
        raise
    except ValueError as error:
        raise TaskError(str(error)) from error
    return task


def _box_list(answer: Any) -> list[Any]:
    """The boxes of an answer of kind box: one box, or a list of such; texts are JSON or hold numbers in brackets."""
    if isinstance(answer, str):
        with suppress(ValueError, RecursionError):
            return _box_list(json.loads(answer))
        boxes = boxes_in(answer)
        if not boxes:
            raise TaskError(f"answer {answer!r} holds no box: write [x1, y1, x2, y2]")
        return [{"coordinates": numbers, "img_idx": image or 0} for numbers, image in boxes]
    if isinstance(answer, Mapping) or is_four_numbers(answer):
        return [answer]
    if not isinstance(answer, (list, tuple)) or not answer:
        raise TaskError(f"answer {answer!r} is no box: write [x1, y1, x2, y2], or a list of such")
    return list(answer)


OUTSIDE = 0.01
"""Share of the image's sides by which a box may reach beyond it because of rounding. Such a box is clipped."""


def _in_unit(target: Target, task: Task) -> Target:
    """A target in UNIT, by the size of its image, which is EXIF-rotated.

    Raises:
        TaskError: for an image that is not there, a box outside of it, or one in pixels of an unknown view.
    """
    box, index = target.box, target.img_idx
    if not 0 <= index < max(1, len(task.images)):
        raise TaskError(
            f"img_idx {index} of box {list(box.coordinates)}: the row has {len(task.images)} images, which count from 0"
        )
    if box.frame is Frame.INPUT:
        raise TaskError(
            f"box {list(box.coordinates)} is in pixels of a model's input, whose size no file knows: write it in "
            "pixels of the original, or in frame unit or per_mille"
        )
    size = (1, 1)
    if box.frame is Frame.ORIGINAL:
        if not task.images:
            raise TaskError(
                f"box {list(box.coordinates)} is in pixels, but the row has no image: add the image, or write the "
                "box in frame unit"
            )
        size = image_size(task.images[index])
        if max(size) > 1 and max(map(abs, box.coordinates)) <= 1:
            raise TaskError(
                f"box {list(box.coordinates)} is within one pixel of image {index}: if it is in shares of the image, "
                'write {"bbox_2d": …, "frame": "unit"}'
            )
    view = View(size, size)
    unit_box = box.to(Frame.UNIT, view)
    if min(unit_box.coordinates) < -OUTSIDE or max(unit_box.coordinates) > 1 + OUTSIDE:
        extent = f"of {size[0]}x{size[1]} pixels" if box.frame is Frame.ORIGINAL else f"in frame {box.frame.value}"
        raise TaskError(f"box {list(box.coordinates)} lies outside image {index} {extent}: is it [x1, y1, x2, y2]?")
    clipped_box = unit_box.clipped(View((1, 1), (1, 1)))
    if clipped_box.is_empty:
        raise TaskError(
            f"box {list(box.coordinates)} lies outside image {index}: is it [x1, y1, x2, y2] of this image?"
        )
    return Target(clipped_box, index)


def kind_of(kind: str | None, answer: Any, choices: tuple[str, ...], *, has_image: bool) -> AnswerKind:
    """The kind named in the row, else the one that the answer's form suggests (docs/data.md)."""
    if kind:
        kinds = [member.value for member in AnswerKind]
        if kind not in kinds:
            raise TaskError(f"kind {kind!r} is unknown: use one of {kinds}")
        return AnswerKind(kind)
    if choices:
        return AnswerKind.CHOICE
    if isinstance(answer, bool):
        return AnswerKind.YES_NO
    if isinstance(answer, Mapping) or (has_image and _looks_like_boxes(answer)):
        return AnswerKind.BOX
    if isinstance(answer, (list, tuple)):
        return AnswerKind.LIST
    text = str(answer).strip().lower()
    if text in ("yes", "no", "true", "false"):
        return AnswerKind.YES_NO
    return AnswerKind.NUMBER if is_number(text) or text in _NO_NUMBERS else AnswerKind.TEXT


def kind_of_text(answer: Any) -> AnswerKind:
    """The kind of an answer that a model wrote: "Nan" is a name there, and not what a computation left."""
    is_text = str(answer).strip().lower() in _NO_NUMBERS
    return AnswerKind.TEXT if is_text else kind_of(None, answer, (), has_image=False)


_NO_NUMBERS = ("nan", "inf", "-inf", "infinity", "-infinity")
"""Texts that computations leave in place of a number. They are read as numbers, and refused."""


def _looks_like_boxes(answer: Any) -> bool:
    """Returns True if an answer is four numbers, or a list of boxes only."""
    if isinstance(answer, (list, tuple)) and answer and not is_four_numbers(answer):
        return all(isinstance(item, Mapping) or is_four_numbers(item) for item in answer)
    return is_four_numbers(answer)


BOX_FORM = '[x1, y1, x2, y2] on image 0, or {"bbox_2d": [x1, y1, x2, y2], "img_idx": 1, "frame": "original"}'


def target_of(box: Any) -> Target:
    """A box as files write it; without a frame in pixels of the original, without img_idx on image 0."""
    fields = dict(box) if isinstance(box, Mapping) else {"coordinates": box}
    fields = {name: value for name, value in fields.items() if value is not None}  # Arrow fills what a row leaves out
    numbers = fields.pop("bbox_2d", None) or fields.pop("coordinates", None)
    index, frame, _ = fields.pop("img_idx", 0), fields.pop("frame", Frame.ORIGINAL), fields.pop("label", None)
    if fields or not isinstance(numbers, (list, tuple)):
        raise TaskError(f"box {box!r} is in no known form: write {BOX_FORM}")
    if not is_four_numbers(numbers):
        raise TaskError(f"box {box!r} has {len(numbers)} entries, not four finite numbers: write {BOX_FORM}")
    if isinstance(index, bool) or not isinstance(index, int):
        raise TaskError(f"img_idx of box {box!r} must be a whole number: write {BOX_FORM}")
    if frame not in list(Frame):
        raise TaskError(f"frame {frame!r} of box {box!r} is unknown: use one of {[member.value for member in Frame]}")
    target = Target(Box.of(numbers, Frame(frame)), index)
    if target.box.is_empty:
        raise TaskError(f"box {box!r} is empty: it needs x1 below x2 and y1 below y2")
    return target
