"""What watches a GRPO run: a warning when zooming collapses."""

from __future__ import annotations

from collections import deque
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


class CollapseCallback(TrainerCallback):
    """Warns once when the zoom rate stays below `low` or above `high` for `patience` logs in a row."""

    def __init__(self, *, low: float = 0.02, high: float = 0.995, patience: int = 5) -> None:
        self.low, self.high = low, high
        self.rates: deque[float] = deque(maxlen=patience)
        self.warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        rate = logs.get("zooms/rate")
        if rate is None or not state.is_world_process_zero:
            return
        self.rates.append(float(rate))
        if self.warned or len(self.rates) < (self.rates.maxlen or 0):
            return
        if max(self.rates) < self.low or min(self.rates) > self.high:
            self.warned = True
            now, cure = "always", "add tasks that need no zoom, or a small zoom_cost"
            if max(self.rates) < self.low:
                now, cure = "never", "pay for coverage, or lower a zoom cost"
                if logs.get("stops/answered", 1.0) < 0.5:
                    cure = "it hardly answers either: its cold start has not taught it the protocol, train SFT longer"
            logger.warning(f"zooming has collapsed: the policy {now} zooms in the last {len(self.rates)} logs; {cure}")
