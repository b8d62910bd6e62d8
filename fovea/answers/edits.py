"""Outcomes of an answer to an edited picture: it follows the edit, keeps the former right answer, or does neither."""

from __future__ import annotations

from dataclasses import replace

from fovea.answers import score
from fovea.boxes import Framing
from fovea.tasks import Task

OUTCOMES = ("follows", "stays", "other")
EDIT = "edit"
"""Entry of an edited task's metadata: the task that it was (`of`), the `kind` of edit, the answer that `was` right."""


def outcome(task: Task, answer: str | None, framing: Framing | None = None) -> str:
    """One of `OUTCOMES`, for an answer to a task whose metadata has an `EDIT`."""
    if answer is None:
        return "other"
    if score(task, answer, framing) > 0.5:
        return "follows"
    before = replace(task, answer=task.metadata[EDIT]["was"])
    return "stays" if score(before, answer, framing) > 0.5 else "other"
