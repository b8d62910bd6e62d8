"""Additions of GRPO to the Trainer's checkpoints: rollouts to be trained on, tasks' history, a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object

from fovea.config import ConfigError
from fovea.training import MaskedCheckpoints
from rl.sampling import TaskHistory

logger = get_logger(__name__)

HISTORY = "task_history.json"
"""In a checkpoint: how often each task was answered rightly of late."""
REFERENCE = "reference.pt"
"""In a checkpoint: the reference model's weights, where `sync_ref_model` moves them."""


def load_to(device: torch.device, path: Path) -> Any:
    """The tensors in a file, on a device; "cpu:0", where several processes on a CPU compute, is no place to load to."""
    return torch.load(path, weights_only=True, map_location="cpu" if device.type == "cpu" else device)


class GRPOCheckpoints(MaskedCheckpoints):
    """Mixed into TRL's trainer: a training that goes on has what later steps need."""

    args: Any
    ref_model: Any
    history: TaskHistory
    num_iterations: int
    _step: int
    _buffered_inputs: Any

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Transformers' method of the same name, and what `_save_more` has left there."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        self._load_rollouts(folder / self._rollouts_name)
        if (kept := folder / HISTORY).exists():
            self.history.load(json.loads(kept.read_text()))
        if (kept := folder / REFERENCE).exists():
            weights = load_to(self.args.device, kept)
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(weights)
        elif self.args.sync_ref_model:
            raise ConfigError(f"{folder} lacks {REFERENCE}, the reference that sync_ref_model had moved by then")

    def _load_rollouts(self, path: Path) -> None:
        """Goes on within a generation, if all processes have its rollouts and the settings that cut it into parts."""
        saved = load_to(self.args.device, path) if path.exists() else None
        has_mine = isinstance(saved, dict) and saved["cut"] == self._cut
        if not any(gather_object([saved is not None])):
            return
        if all(gather_object([has_mine])) and saved is not None:
            self._step, self._buffered_inputs = saved["phase"], saved["rollouts"]
        else:
            logger.warning("rollouts of other batch settings were left to be trained on: a new generation is played")

    def _save_more(self, folder: Path) -> None:
        """Rollouts of which later steps still train, by what tasks are drawn, and a reference that moves."""
        if self.args.task_selection == "difficulty" and self.accelerator.is_main_process:
            (folder / HISTORY).write_text(json.dumps(self.history.state()))
        if self.args.sync_ref_model and self.accelerator.is_main_process:
            torch.save(self.accelerator.unwrap_model(self.ref_model).state_dict(), folder / REFERENCE)
        phase = self._step % (cast(int, self.args.steps_per_generation) * self.num_iterations)
        if phase:
            rollouts = {"cut": self._cut, "phase": phase, "rollouts": self._buffered_inputs}
            torch.save(rollouts, folder / self._rollouts_name)

    @property
    def _cut(self) -> list[int]:
        """The settings by which a generation is cut into steps and processes."""
        sizes = self.args.per_device_train_batch_size, self.args.num_micro_batches, self.num_iterations
        return [*sizes, self.args.group_size, self.accelerator.num_processes]

    @property
    def _rollouts_name(self) -> str:
        return f"rollouts_{self.accelerator.process_index}.pt"
