"""The words of a task as roles are asked."""

from __future__ import annotations

from fovea.placeholders import MARK
from fovea.tasks import Task


def question_of(task: Task) -> str:
    """The question with its choices, without the places of images."""
    return task.prompt.replace(MARK, "").strip()
