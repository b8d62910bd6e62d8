"""What SFT and GRPO watch a training by."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from fovea.runs import RunDirectory


class MetricsCallback(TrainerCallback):
    """Appends every log of the main process to metrics.jsonl."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self.run.add_metrics({"step": state.global_step, **logs})


class TimeLimitCallback(TrainerCallback):
    """Ends training after the first step that is over once `minutes` have passed; what was learned is saved as ever."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes = minutes
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes:
            control.should_training_stop = True
