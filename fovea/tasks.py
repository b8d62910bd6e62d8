"""Tasks: a question, its images, the reference answer, and the rule that compares answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fovea.boxes import Box
from fovea.placeholders import MARK


class AnswerKind(StrEnum):
    """Rules by which an answer is compared with its reference."""

    CHOICE = "choice"
    YES_NO = "yes_no"
    NUMBER = "number"
    TEXT = "text"
    LIST = "list"
    BOX = "box"
    MATH = "math"


@dataclass(frozen=True)
class Target:
    """A box that shows the answer, on image `img_idx` of the task."""

    box: Box
    img_idx: int = 0

    def to_dict(self) -> dict[str, Any]:
        return self.box.to_dict() | {"img_idx": self.img_idx}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Target:
        return cls(Box.from_dict(dict(data)), int(data.get("img_idx") or 0))


NO_FAMILY = "no family"
"""The family of questions that name none."""


@dataclass(frozen=True)
class Task:
    """A question about images, with `fovea.placeholders.MARK` where they stand, if they do not all stand before it.

    `images` are what `fovea.images.open_image` takes, opened when the task is played. `first_view_max_pixels` bounds
    the first view of this task; None leaves it to the environment. `metadata["family"]` groups tasks in reports.
    """

    id: str
    images: tuple[Any, ...] = field(repr=False)
    question: str
    answer: Any
    kind: AnswerKind = AnswerKind.TEXT
    choices: tuple[str, ...] = ()
    boxes: tuple[Target, ...] = ()
    first_view_max_pixels: int | None = None
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The row that the task was read from, images apart: what rewards in TRL's form receive."""

    @property
    def family(self) -> str:
        return str(self.metadata.get("family", NO_FAMILY))

    @property
    def prompt(self) -> str:
        """The question as it is asked: with its choices, one a line, where there are any."""
        letters = [f"({chr(65 + index)}) {choice}" for index, choice in enumerate(self.choices)]
        return "\n".join([self.question, *letters])

    def texts(self, name: str) -> list[str]:
        """The texts that `metadata` holds under a name: a text alone is a list of one, none there is an empty list."""
        value = self.metadata.get(name)
        items = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return ["" if item is None else str(item) for item in items]

    def fields(self) -> dict[str, Any]:
        """Fields of any task, whatever columns its row has, for rewards in TRL's form and for environments."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "kind": str(self.kind),
            "choices": list(self.choices),
            "metadata": dict(self.metadata),
        }

    def row(self) -> dict[str, Any]:
        """Arguments of an environment's reset: the row's own columns, `fields`, the question as asked, and the task."""
        return {
            **self.columns,
            **self.fields(),
            "images": list(self.images),
            "question": self.prompt.replace(MARK, ""),
            "first_view_max_pixels": self.first_view_max_pixels,
            "task": self,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Task:
        """The task that columns of TRL's own loop ask for: `images`, `question`, `first_view_max_pixels`."""
        most = row.get("first_view_max_pixels")
        return cls("", tuple(row["images"]), row["question"], None, first_view_max_pixels=most)
