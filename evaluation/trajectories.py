"""Episodes, tasks and pictures in the form that the trajectory viewer reads, for a file and for a server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.stored import StoredRun
from fovea.boxes import Frame, View
from fovea.episodes import Episode, FaultKind
from fovea.images import ImageError, encoded, open_image
from fovea.tasks import Task
from rewards.accuracy import accuracy


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

    def add_set(self, run: str, name: str, stored: StoredRun) -> int:
        """A set of episodes that are added later; its number."""
        settings = stored.settings.get("episodes", {})
        shown = {what: settings.get(what, "true") for what in ("crops", "views")}
        self.sets.append({"run": run, "name": name, "folder": str(stored.folder), **shown})
        return len(self.sets) - 1

    def add(self, number: int, stored: StoredRun, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds episodes of a set, as they were written, and what they show."""
        for row in rows:
            task = stored.task(row)
            found = {"set": number, "task": self._task(task), **_episode(row)}
            if "score" not in found and "accuracy" not in found.get("rewards", {}):
                found["score"] = accuracy(task, Episode.from_dict(dict(row), task))
            self.episodes.append(found)

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
        key = f"{task.source}:{task.id}"
        if key not in self.tasks:
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
            content = encoded(source)
        except ImageError:
            return None
        name = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()[:16]
        self.sources.setdefault(name, source)
        return name


def _targets(task: Task) -> list[dict[str, Any]]:
    """The task's own boxes as shares of their images."""
    found = []
    for target in task.boxes:
        if target.box.frame is Frame.INPUT:
            continue  # its view is the model's, not the viewer's
        is_in_pixels = target.box.frame is Frame.ORIGINAL
        size = open_image(task.images[target.img_idx]).size if is_in_pixels else (1, 1)
        box = target.box.to(Frame.UNIT, View(size, size))
        found.append({"image": target.img_idx, "box": [round(value, 4) for value in box.coordinates]})
    return found


def _episode(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the viewer shows of an episode, without what its task holds."""
    names = ("sample", "step", "mode", "answer", "stop_reason", "num_zooms", "num_tokens", "faults", "score", "scores",
             "why", "rewards", "advantage", "in_loss")  # fmt: skip
    kept = {name: row[name] for name in names if row.get(name) is not None}
    return kept | {"turns": [_turn(turn) for turn in row["turns"]]}


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
    if action["type"] == "fault":
        found["fault"] = action["kind"]
    return found | ({} if turn["well_formed"] else {"malformed": True})
