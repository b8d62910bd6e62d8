"""The episodes that a run left behind, with the tasks that they were played on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fovea.data.identity import digest, fingerprint
from fovea.episodes import Episode
from fovea.models.names import weights_mark
from fovea.runs.records import (
    ROLLOUTS,
    RUN,
    SAMPLES,
    Group,
    Rollout,
    RunInfo,
    Sample,
    read_rollouts,
    read_run,
    read_samples,
)
from fovea.tasks import Task


def tell_if_outdated(folder: Path) -> None:
    """Says it where an evaluation is of weights that its checkpoint no longer has."""
    info = read_run(folder)
    model, mark = str(info.chosen("evaluation").get("model_name_or_path")), info.chosen("weights").get("mark")
    if mark is None or not Path(model).is_dir():  # no hub is asked what it has now
        return
    with suppress(FileNotFoundError, ValueError):  # what was evaluated has gone
        if weights_mark(model) != mark:
            print(f"{folder} is of the weights that {model} had before it was trained anew: evaluate it again")


@dataclass(frozen=True)
class StoredRun:
    """An evaluation (`file` samples.jsonl) or a training (episodes.jsonl) in a folder."""

    folder: Path
    file: str

    @property
    def path(self) -> Path:
        """The file of its episodes."""
        return self.folder / self.file

    @property
    def kind(self) -> type[Sample] | type[Rollout]:
        """The type of the records in the file."""
        return Sample if self.file == SAMPLES else Rollout

    @cached_property
    def info(self) -> RunInfo:
        return read_run(self.folder)

    @cached_property
    def records(self) -> Sequence[Sample | Rollout]:
        """The episodes as they were written."""
        return read_samples(self.folder) if self.file == SAMPLES else read_rollouts(self.folder)

    @property
    def samples(self) -> list[Sample]:
        """The episodes of an evaluation."""
        return [record for record in self.records if isinstance(record, Sample)]

    @property
    def rollouts(self) -> list[Rollout]:
        """The episodes of a training."""
        return [record for record in self.records if isinstance(record, Rollout)]

    @cached_property
    def tasks(self) -> dict[str, dict[str, Task]]:
        """The run's tasks by mode ("train", or "eval" for held-out ones and those of an evaluation) and id.

        They are loaded as the run loaded them.

        Raises:
            SystemExit: if they cannot be loaded any more.
        """
        from evaluation.arguments import EvaluationArguments  # imports torch, which only tasks need
        from fovea.arguments import TaskArguments

        if not self.info.settings:
            raise SystemExit(f"{self.folder} has no {RUN}, which says what was played: copy it beside {self.file}")
        kind: type[TaskArguments] = EvaluationArguments if self.file == SAMPLES else TaskArguments
        arguments = self.info.arguments(kind, "script", "evaluation")
        held_out = self.info.chosen("script", "evaluation").get("eval_dataset_name")
        try:
            if self.file == SAMPLES:
                tasks = {"eval": arguments.load_tasks()}
            else:
                tasks = {"train": arguments.load_tasks(), "eval": arguments.read_tasks(held_out) if held_out else []}
        except (OSError, ValueError) as error:
            raise SystemExit(
                f"the tasks of {self.folder} cannot be loaded ({error}): run this in the folder in which the run was "
                "started"
            ) from error
        return {mode: {task.id: task for task in some} for mode, some in tasks.items()}

    def task(self, record: Sample | Rollout) -> Task:
        """The task of a record.

        Raises:
            SystemExit: if the run's settings no longer lead to it, or lead to another one of its id.
        """
        tasks = self.tasks[record.group.mode]
        if record.task_id not in tasks:
            raise SystemExit(
                f"task {record.task_id} of {self.path} is not among the tasks of its run: restore the data that "
                "the run was started with"
            )
        task = tasks[record.task_id]
        if not self._was_played_on(record, task):
            raise SystemExit(
                f"task {record.task_id} of {self.path} has changed since it was played: restore the data that the "
                "run was started with"
            )
        return task

    def _was_played_on(self, record: Sample | Rollout, task: Task) -> bool:
        """Returns True if a task has the question, reference and images that the record holds."""
        if record.question and record.question != task.question:
            return False
        if record.reference is not None and digest(record.reference) != digest(task.answer):
            return False
        has_such_hashes = "pixel_pooling" in self.info.chosen("evaluation")  # version 0.1 and syntheses have others
        if not has_such_hashes or not isinstance(record, Sample) or record.task_hash is None:
            return True
        return record.task_hash in self._hashes[task.id]

    @cached_property
    def _hashes(self) -> dict[str, set[str]]:
        """The hashes of each task of an evaluation by id: as it was loaded, and with other bounds on its views."""
        sides = self.info.chosen("evaluation").get("view_sizes_px") or ()
        bounds = [None, *(side**2 for side in sides)]
        return {
            id: {fingerprint(task), *(fingerprint(replace(task, first_view_max_pixels=bound)) for bound in bounds)}
            for id, task in self.tasks["eval"].items()
        }

    def groups(self, *, of_batches: bool = False) -> dict[Group, list[Episode]]:
        """The episodes by group, in the order of the file; `of_batches` leaves only those of a training's batches."""
        groups: dict[Group, list[Episode]] = defaultdict(list)
        for record in self.records:
            if of_batches and isinstance(record, Rollout) and not record.is_of_a_batch:
                continue
            groups[record.group].append(record.episode(self.task(record)))
        return dict(groups)


def stored_run(folder: Path) -> StoredRun:
    """The training in a folder, or else the evaluation.

    Raises:
        SystemExit: if there is neither.
    """
    for file in (ROLLOUTS, SAMPLES):
        if (folder / file).exists():
            return StoredRun(folder, file)
    below = [str(path.parent) for path in sorted(folder.glob(f"*/{SAMPLES}"))]
    cure = f"did you mean {' or '.join(below[:3])}?" if below else "name the folder of a run"
    raise SystemExit(f"{folder} holds neither {ROLLOUTS} nor {SAMPLES}: {cure}")
