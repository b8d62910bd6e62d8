"""Episodes, tasks and pictures in the form that the trajectory viewer reads, for a file and for a server."""

from __future__ import annotations

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.stored import StoredRun
from fovea.answers import readable
from fovea.answers.boxes import answer_boxes, reference_boxes
from fovea.boxes import Box
from fovea.data.identity import source_hash
from fovea.episodes import Crop, Fault, FaultKind, Turn
from fovea.images import ImageError, cut, image_size, open_image
from fovea.runs.records import Group, Rollout, Sample
from fovea.runs.turns import action_name
from fovea.tasks import NO_FAMILY, AnswerKind, Target, Task
from rewards.accuracy import accuracy

LOST = "lost"
"""The source of a task that its run no longer leads to."""


@dataclass
class Trajectories:
    """Data of the viewer: sets of episodes (`run`, `name`), their tasks, and pictures by content hash.

    Pictures are at most `max_image_px` on their longer side. The viewer draws crops from them. A crop of an image that
    had to be made smaller has a picture of its own, cut from the image.
    """

    max_image_px: int = 480
    sets: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, tuple[Any, Box | None]] = field(default_factory=dict)
    """Of each picture its image, and the part of it that is shown; None for all of it."""
    opening: list[int] = field(default_factory=list)
    """The set that is shown first, and the one beside it; the first set where it is empty."""
    _places: dict[int, dict[Group, int]] = field(default_factory=dict)
    _keys: dict[tuple[int, str, str], str] = field(default_factory=dict)
    """Of each set's tasks, by mode and id, the key under which they are shown."""
    _shrunk: dict[str, bool] = field(default_factory=dict)
    _opened: tuple[str, Image.Image | None] = ("", None)
    """The last image that was decoded, by its name: the pictures of its crops often follow it."""
    _said: set[Path] = field(default_factory=set)

    def add_set(self, run: str, name: str, stored: StoredRun) -> int:
        """A set of episodes that are added later; its number."""
        chosen = stored.info.chosen("episodes")
        shown = {what: chosen.get(what, "true") for what in ("crops", "views")}
        self.sets.append({"run": run, "name": name, "folder": str(stored.folder), **shown})
        return len(self.sets) - 1

    def add(self, number: int, stored: StoredRun, records: Iterable[Sample | Rollout]) -> None:
        """Adds episodes of a set, as they were written, and what they show."""
        places: dict[Group, int] = self._places.setdefault(number, {})
        for record in records:
            task = self._task_of(stored, record)
            place = number, record.group.mode, record.task_id
            if task.source == LOST or place not in self._keys:
                self._keys[place] = self._task(task)
            key = self._keys[place]
            crop_of = partial(self._crop, self.tasks[key]["images"])
            shown = {"set": number, "task": key, **_episode(record, crop_of)}
            if task.kind is AnswerKind.BOX and record.answer and record.framing:
                shown["boxes"] = list(map(_drawn, answer_boxes(task, record.answer, record.framing)))
            if isinstance(record, Rollout):
                shown["sample"] = places[record.group] = places.get(record.group, -1) + 1
                has_frame = task.kind is not AnswerKind.BOX or record.framing  # old runs kept none
                if "accuracy" not in record.rewards and has_frame and task.source != LOST:
                    shown["score"] = accuracy(task, record.episode(task))
            self.episodes.append(shown)

    def _task_of(self, stored: StoredRun, record: Sample | Rollout) -> Task:
        """The record's task; where it cannot be loaded any more, what the record itself says of it, without images."""
        try:
            return stored.task(record)
        except SystemExit as error:
            if stored.path not in self._said:
                self._said.add(stored.path)
                print(f"{error}; its episodes are shown without images")
            family = record.family if isinstance(record, Sample) else NO_FAMILY
            metadata = {"family": family}
            return Task(record.task_id, (), record.question, record.reference, source=LOST, metadata=metadata)

    def picture(self, key: str) -> bytes:
        """A picture as WebP."""
        source, region = self.sources[key]
        name, _, _ = key.partition("-")
        opened, whole = self._opened
        if whole is None or opened != name:
            whole = open_image(source)
            self._opened = name, whole
        image = whole.copy() if region is None else cut(whole, region)
        image.thumbnail((self.max_image_px, self.max_image_px))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=70, method=0)
        return buffer.getvalue()

    def sample_questions(self, number: int, max_pictures: int) -> None:
        """Leaves of a set a random sample of its questions, which shows at most so many pictures.

        Questions are drawn in the order of their hashes: sets of the same questions keep the same ones.
        """
        episodes = defaultdict(list)
        for episode in self.episodes:
            if episode["set"] == number:
                episodes[episode["task"]].append(episode)
        pictures, kept = set[str](), set[str]()
        for key in sorted(episodes, key=lambda key: hashlib.sha256(key.encode()).digest()):
            pictures |= self.pictures_of(episodes[key])
            if kept and len(pictures) > max_pictures:
                break
            kept.add(key)
        if len(kept) < len(episodes):
            self.episodes = [one for one in self.episodes if one["set"] != number or one["task"] in kept]
            self.sets[number]["sampled"] = [len(kept), len(episodes)]

    def pictures_of(self, episodes: Sequence[dict[str, Any]]) -> set[str]:
        """The keys of the pictures that episodes show."""
        images = {key for episode in episodes for key in self.tasks[episode["task"]]["images"] if key is not None}
        crops = (crop for episode in episodes for turn in episode["turns"] for crop in turn["crops"])
        return images | {crop["picture"] for crop in crops if "picture" in crop}

    def data(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-ready."""
        return {
            "sets": self.sets,
            "opening": self.opening,
            "tasks": {episode["task"]: self.tasks[episode["task"]] for episode in self.episodes},
            "episodes": self.episodes,
            "faults": [f.value for f in FaultKind],
        }

    def _task(self, task: Task) -> str:
        """The key under which a task is shown: of its id, texts and images, which may be lost or left out in a set."""
        key = f"{task.id}\n{task.prompt}\n{task.answer}"
        images = [self._picture_key(source) for source in task.images]
        if images and key in self.tasks and self.tasks[key]["images"] not in ([], images):
            key = "\n".join([key, *map(str, images)])
        if key not in self.tasks or len(self.tasks[key]["images"]) < len(images):
            self.tasks[key] = {
                "id": task.id,
                "question": task.prompt,
                "reference": str(task.answer) if task.source == LOST else readable(task),
                "kind": task.kind.value,
                "family": task.family,
                "images": images,
                "targets": _targets(task),
                **({"sweep": task.metadata["sweep"]} if "sweep" in task.metadata else {}),
            }
        return key

    def _picture_key(self, source: Any) -> str | None:
        """The content hash by which a picture is asked for; None if it cannot be read."""
        try:
            name = source_hash(source)
        except ImageError:
            return None
        self.sources.setdefault(name, (source, None))
        return name

    def _crop(self, images: Sequence[str | None], crop: Crop) -> dict[str, Any]:
        """Data of a crop for the viewer: the image's number in the episode, the box, and the size."""
        box = [round(value, 4) for value in crop.region.coordinates]
        shown: dict[str, Any] = {"index": crop.img_idx, "image": crop.root, "box": box, "size": list(crop.input_size)}
        name = images[crop.root] if crop.root < len(images) else None
        if name is not None and self._is_shrunk(name):
            picture = f"{name}-{'-'.join(map(str, box))}"
            self.sources.setdefault(picture, (self.sources[name][0], crop.region))
            shown["picture"] = picture
        return shown

    def _is_shrunk(self, name: str) -> bool:
        """Returns True if a picture has fewer pixels than its image."""
        if name not in self._shrunk:
            try:
                self._shrunk[name] = max(image_size(self.sources[name][0])) > self.max_image_px
            except ImageError:
                self._shrunk[name] = False
        return self._shrunk[name]


def _targets(task: Task) -> list[dict[str, Any]]:
    """The task's own boxes as shares of their images, those that are the answer included."""
    answer = reference_boxes(task) if task.kind is AnswerKind.BOX and task.source != LOST else []
    return list(map(_drawn, [*task.boxes, *answer]))


def _drawn(target: Target) -> dict[str, Any]:
    return {"image": target.img_idx, "box": [round(value, 4) for value in target.box.coordinates]}


def _episode(record: Sample | Rollout, crop_of: Callable[[Crop], dict[str, Any]]) -> dict[str, Any]:
    """Data of an episode for the viewer, without the data of its task; `crop_of` makes those of a crop."""
    shown: dict[str, Any] = {
        "answer": record.answer,
        "stop_reason": record.stop_reason.value,
        "num_zooms": record.num_zooms,
        "num_tokens": record.num_tokens,
        "num_image_tokens": record.num_image_tokens,
        "faults": dict(record.faults),
        "turns": [_turn(turn, crop_of) for turn in record.turns],
    }
    if isinstance(record, Sample):
        shown |= {"sample": record.sample, "score": record.score, "why": record.why, "scores": record.scores or None}
    else:
        names = ("step", "mode", "in_loss", "reward", "advantage")
        shown |= {name: _finite(getattr(record, name)) for name in names}
        shown["rewards"] = {name: _finite(value) for name, value in record.rewards.items()} or None
    return {name: value for name, value in shown.items() if value is not None}


def _finite(value: Any) -> Any:
    """The value, None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _turn(turn: Turn, crop_of: Callable[[Crop], dict[str, Any]]) -> dict[str, Any]:
    crops = [crop_of(crop) for crop in (turn.observation.crops if turn.observation else ())]
    shown = {"text": turn.text, "tokens": turn.num_tokens, "action": action_name(turn.action), "crops": crops}
    if turn.observation is not None:
        shown["observation"] = turn.observation.text
        if turn.observation.foci:
            shown["foci"] = [list(focus.images) for focus in turn.observation.foci]
    if len(turn.actions) > 1:
        shown["action"] = f"{len(turn.actions)} calls"
    if faults := [action.kind.value for action in turn.actions if isinstance(action, Fault)]:
        shown["fault"] = ", ".join(faults)
    return shown if turn.well_formed else {**shown, "malformed": True}
