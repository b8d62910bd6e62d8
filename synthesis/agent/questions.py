"""The words of a task as roles are asked."""

from __future__ import annotations

import re

from fovea.placeholders import ANY_LABEL, MARK
from fovea.tasks import Task

_PLACE = re.compile(rf"\n?(?:{ANY_LABEL})?{MARK}")
"""The place of an image in a text, with its label."""


def question_of(task: Task) -> str:
    """The question with its choices, without images before it; those within it are spoken of by their numbers."""
    if len(task.images) < 2:
        return task.prompt.replace(MARK, "").strip()
    text, *rest = _PLACE.split(task.prompt)
    for number, following in enumerate(rest):
        text = f"{text}image {number}{following}" if text.strip() else following
    return text.strip()


def looked_for(task: Task) -> list[tuple[str, str]]:
    """The targets of a task in order, and the question about each; "" where nothing is read.

    Tasks say it by `metadata["labels"]` and `metadata["questions"]`; else it is what the question asks about.
    """
    question = question_of(task)
    labels, asked = (task.texts(name) for name in ("labels", "questions"))
    if not labels:
        return [(question, question)]
    if len(asked) != len(labels):
        asked = [question] if len(labels) == 1 else [""] * (len(labels) - 1) + [question]
    return list(zip(labels, asked, strict=True))
