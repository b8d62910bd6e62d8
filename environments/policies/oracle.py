"""The policy that knows where to look: it plays from a task's own boxes and answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from environments.seats import Conversation, Reply
from fovea.answers import written
from fovea.boxes import Box, Frame, Framing, View
from fovea.images import pixels_under
from fovea.tasks import Target, Task

WHOLE = 0.99
"""A box that covers this share of both sides is the whole image: a zoom would show nothing larger."""


@dataclass
class OraclePolicy:
    """Plays from a task's own boxes and answer; `noise` and `looseness` make it as sloppy as a human annotator.

    It zooms into each of `task.boxes` in turn (inside the previous crop when `metadata["nested"]`), unless
    `metadata["needs_zoom"]` is False, there are no tools, or a box is the whole image. Then it writes the answer.

    `noise` is the standard deviation of a box's shift in fractions of its own size, `looseness` the range of factors by
    which it is enlarged. `metadata["labels"]` names the boxes, `metadata["readings"]` says what stands in each.
    `mistakes` is the probability with which it first focuses on a wrong image, where its environment has focuses.
    """

    frame: Frame
    noise: float = 0.0
    looseness: tuple[float, float] = (1.0, 1.0)
    mistakes: float = 0.0
    box_step: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [Reply(self._write(conversation)) for conversation in conversations]

    def _write(self, conversation: Conversation) -> str:
        task = conversation.task
        done = sum(message["role"] == "tool" for message in conversation.messages)
        zooms = zooms_of(task) if conversation.tools else []
        readings = dict(enumerate(task.texts("readings")))
        sentences = [f"I read {readings[place]}." for place in zooms[:done] if readings.get(place)]
        if done == len(zooms):
            answer = written(task, conversation.framing)
            return f"<think>{' '.join(sentences) or 'I can see it.'}</think>\n<answer>{answer}</answer>"
        thought = " ".join([*sentences, "I zoom in."])
        nested = bool(task.metadata.get("nested")) and done > 0
        target = task.boxes[zooms[done]]
        img_idx = len(conversation.images) - 1 if nested else target.img_idx
        box = self._box(conversation, target, is_in_crop=nested, img_idx=img_idx)
        arguments = {"bbox_2d": box, "label": label_of(task, zooms[done]), "img_idx": img_idx}
        return turn_of(thought, "image_zoom_in_tool", arguments)

    def _box(self, conversation: Conversation, target: Target, *, is_in_crop: bool, img_idx: int) -> list[float]:
        """The target as the annotator draws it on image `img_idx`: whole units of the model's frame, or thousandths."""
        framing = conversation.framing or Framing(self.frame)
        unit, view = target.box, framing.view(target.img_idx)
        if is_in_crop:
            crop = conversation.messages[-1]["content"][0]["crop"].region
            left, top, right, bottom = pixels_under(crop, view.original)
            unit = unit.relative_to(crop)
            view = View((right - left, bottom - top), conversation.images[img_idx].size)
        return self._drawn(unit, view)

    def _drawn(self, unit: Box, view: View) -> list[float]:
        drawn = drawn_by_hand(unit, self.noise, self.looseness, self._rng).clipped(view).to(self.frame, view)
        if self.frame is Frame.UNIT:
            return [round(value, 3) for value in drawn.coordinates]
        return [round(value / self.box_step) * self.box_step for value in drawn.coordinates]


def zooms_of(task: Task) -> list[int]:
    """The places of the boxes that a zoom shows larger than the image does."""
    if not task.metadata.get("needs_zoom", True):
        return []
    return [place for place, one in enumerate(task.boxes) if min(one.box.width, one.box.height) < WHOLE]


def label_of(task: Task, place: int) -> str:
    """The label of the box at this place; "" if the task has none."""
    return dict(enumerate(task.texts("labels"))).get(place, "")


def turn_of(thought: str, tool: str, arguments: dict[str, Any]) -> str:
    """The text of a turn that thinks and then calls a tool."""
    call = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
    return f"<think>{thought}</think>\n<tool_call>\n{call}\n</tool_call>"


def drawn_by_hand(box: Box, noise: float, looseness: tuple[float, float], rng: np.random.Generator) -> Box:
    """A box (UNIT) as an annotator draws it: off centre by `noise` (a standard deviation, in its own size), too large
    by a factor in the range `looseness`. It may reach beyond the image."""
    dx, dy = rng.normal(0, noise, size=2) * (box.width, box.height)
    moved = Box(box.x1 + dx, box.y1 + dy, box.x2 + dx, box.y2 + dy, Frame.UNIT)
    return moved.enlarged(rng.uniform(*looseness))
