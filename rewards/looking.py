"""Rewards for how an episode looked: its format, where it zoomed, what the zooms cost."""

from __future__ import annotations

from fovea.boxes import coverage, iou
from fovea.episodes import Crop, Episode, StopReason
from fovea.tasks import Target, Task


def format(task: Task, episode: Episode) -> float:
    """1.0 if every turn kept the format and the last one answered, else 0.0."""
    answered = episode.stop_reason is StopReason.ANSWERED
    return float(answered and all(turn.well_formed for turn in episode.turns) and not episode.faults)


def zoom_coverage(task: Task, episode: Episode) -> float | None:
    """Mean over the target boxes of the largest share of each that one crop shows; None without target boxes."""
    return _best(task, episode, coverage)


def zoom_iou(task: Task, episode: Episode) -> float | None:
    """Mean over the target boxes of the best IoU that a crop reached; None without target boxes."""
    return _best(task, episode, iou)


def zoom_cost(task: Task, episode: Episode) -> float:
    """Minus the number of zooms: weigh it with what a zoom may cost."""
    return -float(episode.num_zooms)


def _best(task: Task, episode: Episode, measure) -> float | None:
    if not task.boxes:
        return None
    best = [
        max((measure(target.box, crop.region) for crop in _of(target, episode)), default=0.0) for target in task.boxes
    ]
    return sum(best) / len(best)


def _of(target: Target, episode: Episode) -> list[Crop]:
    return [crop for crop in episode.crops if crop.root == target.img_idx]
