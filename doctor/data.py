"""Checks of tasks, before an environment shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from doctor.findings import Note, evenly
from fovea.arguments import TaskArguments
from fovea.images import ImageError, open_image
from fovea.statistics import best_constant
from fovea.tasks import AnswerKind, Task

NUM_LOOKED_AT = 200
"""Tasks whose images are opened."""


def unfit_tasks(note: Note, tasks: Sequence[Task]) -> None:
    """Tasks that teach nothing, or that a training would stumble over."""
    if not tasks:
        note.fail("there are no tasks", "look at --dataset_name and --max_tasks")
        return
    if unusable_images(note, tasks) or given_away_answers(note, tasks):
        return
    constant = best_constant([(task.family, str(task.answer)) for task in tasks])
    if constant > 0.8 and len(tasks) >= 10:
        note.warn(f"one fixed answer for each family scores {constant:.2f}, without looking", "balance the answers")
    repeated = len(tasks) - len({task.id for task in tasks})
    if repeated:
        note.warn(f"{repeated} tasks have the id of another one", "give each its own id: comparisons pair tasks by it")
    blind = sum(not task.images for task in tasks)
    kinds = ", ".join(sorted({task.kind.value for task in tasks}))
    note.ok(f"{len(tasks)} tasks, {blind} without images; kinds {kinds}; one answer a family scores {constant:.2f}")


def unusable_images(note: Note, tasks: Sequence[Task]) -> bool:
    """Names images that do not open, and returns True if there are any. Boxes are checked as tasks are loaded."""
    problems = []
    for task in evenly(tasks, NUM_LOOKED_AT):
        try:
            for image in task.images:
                open_image(image)
        except ImageError as error:
            problems.append(f"task {task.id}: {error}")
    if problems:
        note.fail(
            f"images of {len(problems)} tasks cannot be opened, the first: {problems[0]}",
            "replace these images, or remove their rows",
        )
    return bool(problems)


def given_away_answers(note: Note, tasks: Sequence[Task]) -> bool:
    """Names questions that contain their answer, and returns True if there are more than by chance."""
    leaks = [task for task in tasks if _gives_itself_away(task)]
    if len(leaks) <= 0.02 * len(tasks):
        return False
    say = note.fail if len(leaks) > len(tasks) / 2 else note.warn
    say(
        f"{len(leaks)} of {len(tasks)} questions contain their answer, as {leaks[0].question[:100]!r} "
        f"({leaks[0].answer!r})",
        "take the answer out of the question, or name the right column with --columns",
    )
    return True


def _gives_itself_away(task: Task) -> bool:
    """Returns True if the question contains the answer and does not offer it as one of several alternatives."""
    answer = str(task.answer).strip().lower()
    question = task.question.lower()
    is_open = task.kind in (AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.MATH) and " or " not in question
    return is_open and bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", question) is not None


def trained_held_out_tasks(note: Note, script: TaskArguments, name: str, tasks: Sequence[Task]) -> None:
    """Held-out tasks that are trained on, told by question and file names."""
    held_out = script.read_tasks(name)
    trained = {(task.question, str(task.images)) for task in tasks if all(isinstance(i, str) for i in task.images)}
    both = sum((task.question, str(task.images)) in trained for task in held_out)
    if both:
        note.fail(f"{both} of {len(held_out)} held-out tasks are trained on", "take them out of dataset_name")
    else:
        note.ok(f"{len(held_out)} held-out tasks, none trained on as far as file names tell")
