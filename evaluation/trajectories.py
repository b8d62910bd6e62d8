"""Episodes, tasks and pictures in the form that the trajectory viewer reads, for a file and for a server."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.stored import StoredRun
from fovea.answers.boxes import answer_boxes, reference_boxes
from fovea.boxes import Framing
from fovea.episodes import Episode, FaultKind
from fovea.images import ImageError, open_image, source_hash
from fovea.tasks import AnswerKind, Target, Task
from rewards.accuracy import accuracy

LOST = "lost"
"""The source of a task that its run no longer leads to."""


@dataclass
class Trajectories:
    """What the viewer shows: sets of episodes (`run`, `name`), their tasks, and pictures by content hash.

    Pictures are at most `max_image_px` on their longer side: crops are drawn from them by the viewer.
    """

    max_image_px: int = 480
    sets: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, Any] = field(default_factory=dict)
    _places: dict[int, dict[tuple, int]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def add_set(self, run: str, name: str, stored: StoredRun) -> int:
        """A set of episodes that are added later; its number."""
        settings = stored.settings.get("episodes", {})
        shown = {what: settings.get(what, "true") for what in ("crops", "views")}
        self.sets.append({"run": run, "name": name, "folder": str(stored.folder), **shown})
        return len(self.sets) - 1

    def add(self, number: int, stored: StoredRun, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds episodes of a set, as they were written, and what they show."""
        places: dict[tuple, int] = self._places.setdefault(number, {})
        for row in rows:
            task = self._task_of(stored, row)
            found = {"set": number, "task": self._task(task), **_episode(row)}
            if task.kind is AnswerKind.BOX and row.get("answer") and row.get("framing"):
                framing = Framing.from_dict(row["framing"])
                found["boxes"] = list(map(_drawn, answer_boxes(task, row["answer"], framing)))
            if "sample" not in found:
                key = row.get("step"), row.get("mode"), row["task_id"]
                found["sample"] = places[key] = places.get(key, -1) + 1
            is_scored = "score" in found or "accuracy" in found.get("rewards", {})
            has_frame = task.kind is not AnswerKind.BOX or row.get("framing")  # runs of before it was kept have none
            if not is_scored and has_frame and task.source != LOST:
                found["score"] = accuracy(task, Episode.from_dict(dict(row), task))
            self.episodes.append(found)

    def _task_of(self, stored: StoredRun, row: Mapping[str, Any]) -> Task:
        """The row's task; where it cannot be loaded any more, what the row itself says of it, without images."""
        try:
            return stored.task(row)
        except SystemExit as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                print(f"{error}; its episodes are shown without images")
            family = {"family": row.get("family", "all")}
            return Task(row["task_id"], (), row["question"], row["reference"], source=LOST, metadata=family)

    def picture(self, key: str) -> bytes:
        """A picture as WebP."""
        image = open_image(self.sources[key])
        image.thumbnail((self.max_image_px, self.max_image_px))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=70, method=0)
        return buffer.getvalue()

    def data(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-ready."""
        return {
            "sets": self.sets,
            "tasks": self.tasks,
            "episodes": self.episodes,
            "faults": [f.value for f in FaultKind],
        }

    def _task(self, task: Task) -> str:
        key = f"{task.id}\n{task.prompt}\n{task.answer}"
        if key not in self.tasks or len(self.tasks[key]["images"]) < len(task.images):
            images = [self._picture_key(source) for source in task.images]
            self.tasks[key] = {
                "id": task.id,
                "question": task.prompt,
                "reference": str(task.answer),
                "kind": task.kind.value,
                "family": task.family,
                "images": images,
                "targets": _targets(task),
            }
        return key

    def _picture_key(self, source: Any) -> str | None:
        """The content hash by which a picture is asked for; None if it cannot be read."""
        try:
            name = source_hash(source)
        except ImageError:
            return None
        self.sources.setdefault(name, source)
        return name


def _targets(task: Task) -> list[dict[str, Any]]:
    """The task's own boxes as shares of their images, those that are the answer included."""
    answer = reference_boxes(task) if task.kind is AnswerKind.BOX and task.source != LOST else []
    return list(map(_drawn, [*task.boxes, *answer]))


def _drawn(target: Target) -> dict[str, Any]:
    return {"image": target.img_idx, "box": [round(value, 4) for value in target.box.coordinates]}


def _episode(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the viewer shows of an episode, without what its task holds."""
    names = ("sample", "step", "mode", "answer", "stop_reason", "num_zooms", "num_tokens", "faults", "score", "scores",
             "why", "rewards", "reward", "advantage", "in_loss")  # fmt: skip
    kept = {name: _finite(row[name]) for name in names if row.get(name) is not None}
    return kept | {"turns": [_turn(turn) for turn in row["turns"]]}


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    action, observation = turn["action"], turn["observation"] or {"text": None, "crops": []}
    crops = [
        {"index": crop["img_idx"], "image": crop["root"],
         "box": [round(value, 4) for value in crop["region"]["coordinates"]]}
        for crop in observation["crops"]
    ]  # fmt: skip
    found = {"text": turn["text"], "tokens": turn["num_tokens"], "action": action["type"], "crops": crops}
    if observation["text"] is not None:
        found["observation"] = observation["text"]
    actions = [action, *turn.get("more_actions", ())]
    if len(actions) > 1:
        found["action"] = f"{len(actions)} calls"
    if kinds := [one["kind"] for one in actions if one["type"] == "fault"]:
        found["fault"] = ", ".join(kinds)
    return found | ({} if turn["well_formed"] else {"malformed": True})
