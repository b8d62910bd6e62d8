"""Roles that need no model: rules, and the procedural truth of tasks with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from environments.policies.oracle import drawn_by_hand
from fovea.answers import score, written
from fovea.boxes import UNIT_VIEW, WHOLE, Box, Frame, coverage
from fovea.tasks import Task
from synthesis.agent.questions import looked_for, question_of
from synthesis.agent.roles import ADVICE, Judgement, Note, Sight, Usage

CANNOT_SEE = "I cannot see it."


class Rules:
    """Verifies by the task's own rule, adjusts by growing and shifting a box, summarises in fixed words."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def verify(self, task: Task, answer: str, usage: Usage) -> Judgement:
        is_right = score(task, answer) > 0.99
        return Judgement(is_right, "" if is_right else ADVICE)

    def adjust(self, sight: Sight, box: Box, advice: str, usage: Usage) -> Box:
        """Half as large again, and shifted by up to a quarter of itself; the same for the same box and task."""
        rng = np.random.default_rng([self.seed, *(int(1e6 * value) for value in box.coordinates)])
        dx, dy = rng.uniform(-0.25, 0.25, size=2) * (box.width, box.height)
        moved = Box(box.x1 + dx, box.y1 + dy, box.x2 + dx, box.y2 + dy, Frame.UNIT).enlarged(1.5)
        clipped = moved.clipped(UNIT_VIEW)
        return WHOLE if clipped.is_empty else clipped

    def summarise(self, task: Task, notes: Sequence[Note], answer: str, usage: Usage) -> list[str]:
        read = [f"I read {note.answer}." if note.answer else "" for note in notes]
        before_zooms = [f"{sentence} I zoom in.".strip() for sentence in ["", *read[:-1]]] if notes else []
        return [*before_zooms, " ".join(filter(None, read)) or "I can see it."]


@dataclass
class Truth(Rules):
    """Knows where things are (`task.boxes`) and what stands there (`metadata["readings"]`, the answer)."""

    seed: int = 0
    noise: float = 0.12
    """Standard deviation of a box's shift, in its own size."""
    looseness: tuple[float, float] = (1.0, 3.0)
    """Boxes are enlarged by a factor in this range."""

    def locate(self, sight: Sight, target: str, usage: Usage) -> Box | None:
        places = [number for number, (sought, _) in enumerate(looked_for(sight.task)) if sought == target]
        place = places[0] if places else 0
        if place >= len(sight.task.boxes) or sight.task.boxes[place].img_idx != sight.root:
            return None
        true = sight.task.boxes[place].box.relative_to(sight.region)
        rng = np.random.default_rng([self.seed, place, *(int(1e6 * abs(value)) for value in true.coordinates)])
        return drawn_by_hand(true, self.noise, self.looseness, rng)

    def look(self, sight: Sight, question: str, notes: Sequence[Note], usage: Usage) -> str:
        task = sight.task
        if not task.metadata.get("needs_zoom", bool(task.boxes)):
            return written(task)
        shown = [note.sight for note in notes] + [sight]
        held = [
            any(_shows(one, target.box, target.img_idx) for one in shown if not one.is_whole) for target in task.boxes
        ]
        readings = task.texts("readings")
        if question == question_of(task) or not readings:
            return written(task) if all(held) else CANNOT_SEE
        for target, reading in zip(task.boxes, readings, strict=False):
            if reading and not sight.is_whole and _shows(sight, target.box, target.img_idx):
                return reading
        return CANNOT_SEE


def _shows(sight: Sight, box: Box, root: int) -> bool:
    return sight.root == root and coverage(box, sight.region) > 0.9
