"""The words of a task as roles are asked."""

from __future__ import annotations

from fovea.placeholders import MARK
from fovea.tasks import Task


def question_of(task: Task) -> str:
    """The question with its choices, without the places of images."""
    return task.prompt.replace(MARK, "").strip()


def looked_for(task: Task) -> list[tuple[str, str]]:
    """What a task asks to be found, one after the other, and what is asked about each; "" where nothing is read.

    Tasks say it by `metadata["labels"]` and `metadata["questions"]`; else it is what the question asks about.
    """
    question = question_of(task)
    labels, asked = (task.texts(name) for name in ("labels", "questions"))
    if not labels:
        return [(question, question)]
    if len(asked) != len(labels):
        asked = [question] if len(labels) == 1 else [""] * (len(labels) - 1) + [question]
    return list(zip(labels, asked, strict=True))
