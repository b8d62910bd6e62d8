"""An item of MIMIC once it is drawn: its axes, its pictures and question, and the task that it makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fovea.chains import Chain, Step
from fovea.placeholders import label_images
from fovea.tasks import AnswerKind, Target, Task
from synthesis.mimic.pool import Pool


@dataclass(frozen=True)
class Axes:
    """Properties of an item apart from its classes; MIMIC's axes of difficulty."""

    spread: int = 2
    """Pictures that show what is asked about: for the common class all, for the odd one the minority."""
    distractors: int = 2
    """Pictures that do not; for the odd one those of the majority, for the common class none."""
    num_classes: int = 1
    """Classes that are counted together, or listed."""
    total: int = 4
    """Instances that are counted."""
    view_px: int | None = None
    """Side of a square with the pixels of a picture's first view: the length of the sequence."""


@dataclass(frozen=True)
class Item:
    """A drawn item: pictures in their order, by their row in the pool, and the question about them."""

    kind: str
    pictures: tuple[int, ...]
    classes: tuple[int, ...]
    question: str
    answer: Any
    answer_kind: AnswerKind
    steps: tuple[Step, ...]
    axes: Axes
    draw: tuple[int, int]
    """Seed and number, by which it is drawn again."""

    def task(self, pool: Pool, suffix: str = "", **metadata: Any) -> Task:
        """The item as a task; its metadata says how it was made, and its chain."""
        boxes = tuple(
            Target(box, number)
            for number, picture in enumerate(self.pictures)
            for box in pool.boxes(picture, self.classes)
        )
        made = {
            "family": self.kind,
            "benchmark": "mimic",
            "num_images": len(self.pictures),
            "classes": [pool.classes[kind] for kind in self.classes],
            "present": sorted({pool.classes[one] for picture in self.pictures for one in pool.possible(picture)}),
            "pictures": [pool.names[picture] for picture in self.pictures],
            "axes": asdict(self.axes),
            "draw": list(self.draw),
            "needs_zoom": False,
            **Chain(self.steps).metadata(),
            **metadata,
        }
        images = tuple(pool.images[picture] for picture in self.pictures)
        return Task(
            id=f"mimic-{self.kind}-{self.draw[0]}-{self.draw[1]}{suffix}",
            images=images,
            question=label_images(self.question, len(images)),
            answer=self.answer,
            kind=self.answer_kind,
            boxes=boxes,
            first_view_max_pixels=None if self.axes.view_px is None else self.axes.view_px**2,
            source=pool.source,
            metadata=made,
        )
