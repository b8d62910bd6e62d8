"""An alarm that watches a GRPO run, and rings when the policy stops looking."""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from fovea.runs.checkpoints import LAST_GOOD, MARK

logger = logging.get_logger(__name__)


@dataclass
class Symptom:
    """A metric that stays outside `low` and `high` for `patience` logs in a row, what that means, and what helps."""

    metric: str
    meaning: str
    cure: str
    low: float = float("-inf")
    high: float = float("inf")
    patience: int = 5
    values: deque[float] = field(default_factory=deque)

    def takes(self, logs: dict[str, Any]) -> bool:
        """Records the metric and returns True if it has collapsed."""
        if self.metric in logs:
            self.values.append(float(logs[self.metric]))
            while len(self.values) > self.patience:
                self.values.popleft()
        return len(self.values) == self.patience and (max(self.values) < self.low or min(self.values) > self.high)

    @property
    def is_near(self) -> bool:
        """True if the last value is outside, so that a collapse may begin here."""
        return bool(self.values) and not self.low <= self.values[-1] <= self.high


def symptoms(*, can_zoom: bool) -> list[Symptom]:
    """The first signs of a policy that stops looking; its zooms count if the environment has the tool."""
    gap = "--information_gap true"
    zooms = [
        Symptom("zooms/rate", "the policy never zooms", f"pay for coverage, lower a zoom cost, or {gap}", low=0.02),
        Symptom(
            "zooms/rate", "the policy always zooms", "add tasks that need no zoom, or a small zoom_cost", high=0.995
        ),
    ]
    return [
        Symptom(
            "stops/answered",
            "the policy hardly answers any more",
            "its cold start has not taught it the protocol (train SFT longer), or the learning rate is too high",
            low=0.1,
        ),
        *(zooms if can_zoom else []),
        Symptom("entropy", "the policy has no alternatives left", "raise beta, or lower the learning rate", low=0.005),
        Symptom(
            "eval_crop_dependence",
            "other crops do as well as true ones: the policy does not look",
            f"use tasks whose first view is not enough, or {gap}",
            low=0.01,
            patience=2,
        ),
    ]


class CollapseCallback(TrainerCallback):
    """Says once what has collapsed, and by `action` warns, stops, or stops and keeps the last checkpoint from before.

    With `keep`, each checkpoint that is saved while no metric is out of bounds is also kept, by hard links, as
    `last_good`.
    """

    def __init__(self, action: str = "warn", *, can_zoom: bool = True) -> None:
        self.action = action
        self.watched = symptoms(can_zoom=can_zoom)
        self.present: list[Symptom] = []
        self.has_warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        self.present = [symptom for symptom in self.watched if symptom.takes(logs or {})]
        if not self.present:
            return
        if self.action != "warn":
            control.should_training_stop = True
        if state.is_world_process_zero and not self.has_warned:
            self.has_warned = True
            found = [f"{one.meaning} ({one.metric} {one.values[-1]:.3g}): {one.cure}" for one in self.present]
            logger.warning(f"collapse at step {state.global_step}: {'; '.join(found)}{self._what_follows(args)}")

    def _what_follows(self, args: Any) -> str:
        kept = Path(args.output_dir) / LAST_GOOD
        if self.action == "keep" and (kept / MARK).exists():  # else it is of a run before
            return f". Training stops; the last checkpoint from before is {kept}"
        if self.action == "keep":
            return ". Training stops; no checkpoint from before was saved (lower save_steps)"
        return ". Training stops" if self.action == "stop" else ""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_healthy = not any(symptom.is_near for symptom in self.watched)
        if self.action != "keep" or not is_healthy or not state.is_world_process_zero:
            return
        kept, aside = Path(args.output_dir) / LAST_GOOD, Path(args.output_dir) / f"{LAST_GOOD}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(
            Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", aside, copy_function=_link
        )
        shutil.rmtree(kept, ignore_errors=True)
        aside.rename(kept)


def _link(source: str, target: str) -> None:
    """Another name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
