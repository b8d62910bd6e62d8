"""What evaluations and trainings left behind, read back: episodes with their tasks, settings, metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.arguments import EvaluationArguments
from fovea.arguments import TaskArguments
from fovea.episodes import Episode
from fovea.jsonl import read_jsonl
from fovea.runs.directory import settings_of
from fovea.tasks import Task


@dataclass(frozen=True)
class StoredRun:
    """The folder of an evaluation (samples.jsonl) or a training (episodes.jsonl)."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of its episodes.

        Raises:
            SystemExit: if it has none.
        """
        for name in ("episodes.jsonl", "samples.jsonl"):
            if (self.folder / name).exists():
                return self.folder / name
        raise SystemExit(f"{self.folder} holds neither episodes.jsonl nor samples.jsonl: name the folder of a run")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        return settings_of(self.folder)

    @cached_property
    def tasks(self) -> dict[str, dict[str, Task]]:
        """The run's tasks by mode ("eval" for a training's held-out ones, else "train") and id, as the run loaded them.

        Raises:
            SystemExit: if they cannot be loaded any more.
        """
        chosen = self.settings.get("evaluation") or self.settings.get("script") or {}
        kind: type[TaskArguments] = EvaluationArguments if "evaluation" in self.settings else TaskArguments
        names = {field.name for field in fields(kind)}
        arguments = kind(**{name: value for name, value in chosen.items() if name in names})
        held_out = chosen.get("eval_dataset_name")
        try:
            tasks = {"train": arguments.load_tasks(), "eval": arguments.read_tasks(held_out) if held_out else []}
        except (OSError, ValueError) as error:
            raise SystemExit(
                f"the tasks of {self.folder} cannot be loaded as it loaded them ({error}): are you in its folder?"
            ) from error
        return {mode: {task.id: task for task in found} for mode, found in tasks.items()}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The episodes as they were written."""
        return read_jsonl(self.path)

    def task(self, row: Mapping[str, Any]) -> Task:
        """The task of a row.

        Raises:
            SystemExit: if the run's settings no longer lead to it.
        """
        tasks = self.tasks["eval" if row.get("mode") == "eval" else "train"]
        if row["task_id"] not in tasks:
            raise SystemExit(f"task {row['task_id']} of {self.path} is not among its run's tasks: have they changed?")
        return tasks[row["task_id"]]

    def groups(self) -> list[list[Episode]]:
        """The episodes, those of one task and step together."""
        groups: dict[tuple, list[Episode]] = defaultdict(list)
        for row in self.rows:
            groups[_group(row)].append(Episode.from_dict(row, self.task(row)))
        return list(groups.values())

    def steps(self) -> list[Any]:
        """The step of each of `groups`."""
        return [step for step, *_ in dict.fromkeys(map(_group, self.rows))]


def _group(row: Mapping[str, Any]) -> tuple:
    return row.get("step"), row.get("mode"), row["task_id"]
