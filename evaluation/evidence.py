"""Analyses that a report shows: those that the runs' evaluations allow, as their commands print them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evaluation import consistency, edits, split, task_history
from evaluation.consistency import VARIANT
from evaluation.discover import FoundRun
from evaluation.stored import StoredRun
from fovea.answers.edits import EDIT


def evidence(runs: Sequence[FoundRun]) -> Iterator[tuple[str, str]]:
    """Heading and Markdown of each analysis that has something to say; where one cannot be made, the reason."""
    analyses: dict[str, Callable[[], str]] = {
        "What the tool did": lambda: _split(runs),
        "Tasks over the training": lambda: _task_courses(runs),
        "Edited pictures": lambda: _of_tasks(runs, EDIT, edits.outcomes, edits.table),
        "Order and distractors": lambda: _of_tasks(runs, VARIANT, consistency.consistency, consistency.table),
    }
    for heading, analysis in analyses.items():
        try:
            text = analysis()
        except (ValueError, SystemExit) as error:  # SystemExit: the tasks have changed since
            text = str(error)
        if text:
            yield heading, text


def _split(runs: Sequence[FoundRun]) -> str:
    """The split of each folder of arms in the runs, and its change from one to the next; empty if there is none."""
    names = {
        str(folder): run.name if folder == run.folder else f"{run.name} / {folder.name}"
        for run in runs
        for folder in (run.folder, *sorted(run.folder.glob("*")))
        if split.has_arms(folder)
    }
    if not names:
        return ""
    found = split.split(*names)
    checkpoints = {names[path]: one for path, one in found["checkpoints"].items()}
    changes = [change | {"a": names[change["a"]], "b": names[change["b"]]} for change in found["changes"]]
    return split.table({"checkpoints": checkpoints, "changes": changes})


def _task_courses(runs: Sequence[FoundRun]) -> str:
    """The courses of each training's tasks; empty if no task came up twice."""
    tables = {
        run.name: task_history.table(task_history.task_courses(run.training.rollouts)) for run in runs if run.training
    }
    return "\n\n".join(f"{name}: {text}" for name, text in tables.items() if text)


def _of_tasks(
    runs: Sequence[FoundRun],
    key: str,
    analysis: Callable[[StoredRun], Mapping[str, Any]],
    table: Callable[[Mapping[str, Mapping[str, Any]]], str],
) -> str:
    """The table of the evaluations that played tasks with this key in their metadata; empty if none did."""
    found = {
        f"{run.name} / {name}": analysis(stored)
        for run in runs
        for name, stored in run.evaluations.items()
        if _has(stored, key)
    }
    return table(found) if found else ""


def _has(stored: StoredRun, key: str) -> bool:
    try:
        return any(key in task.metadata for task in stored.tasks["eval"].values())
    except SystemExit:  # its tasks are lost: the viewer says so
        return False
