"""Checkpoints that are whole or do not count, and going on from the last one after a kill."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from fovea.replacing import replaced

MARK = "whole"
"""The empty file in a checkpoint to which every process has written its part."""
LAST_FILE = "training_args.bin"
"""The last file that a Trainer writes into the folder of its model."""
UNFINISHED = "unfinished"
"""The empty file in the folder of a run that is being trained: a push to the hub leaves `LAST_FILE` there meanwhile."""
COMPLETE = "complete"
"""The empty file in the folder of a run that has taken all of its steps, and has saved its model."""
_WEIGHTS = (
    "adapter_config.json",
    "adapter_model.*",
    "model.safetensors*",
    "model-*.safetensors",
    "pytorch_model*.bin*",
)
LAST_GOOD = "last_good"
"""The checkpoint that is kept from before a collapse (`rl.collapse`)."""
KEPT_HERE = ("*.jsonl", "*.html", "ledger.json", UNFINISHED, COMPLETE, f"{LAST_GOOD}/*", "*images/*", "*/summary.json")
"""Files of a run that are not pushed to the hub with its model: data, rollouts, evaluations."""


class WholeCheckpoints:
    """Mixed into a Trainer: a checkpoint is marked once all processes have written it, and older ones go only then."""

    args: Any
    model: Any
    accelerator: Any
    state: Any
    _to_push: str | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and folder.exists():  # of a run before, or torn: nothing of it may be read as of this
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit
        self._save_more(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (folder / MARK).touch()
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        if self._to_push is not None:
            with _model_alone():
                super()._push_from_checkpoint(self._to_push)  # type: ignore[misc]
            self._to_push = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Transformers' method of the same name, put off until the checkpoint is whole."""
        self._to_push = checkpoint_folder

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Transformers' method of the same name, without the data and the rollouts of the run."""
        with _model_alone():
            return super().push_to_hub(*args, **kwargs)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Transformers' method of the same name; an adapter and a whole model never lie in one folder.

        Under DeepSpeed every process calls it, and one alone writes: no other may take away what that one has written.
        """
        if self.args.should_save:
            for kind in _WEIGHTS:
                for file in Path(output_dir or self.args.output_dir).glob(kind):
                    file.unlink()
        super()._save(output_dir, state_dict)  # type: ignore[misc]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Transformers' method of the same name; weights that are tied to others are never in a checkpoint."""
        tied = set(self.accelerator.unwrap_model(self.model).all_tied_weights_keys)
        missing = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))  # type: ignore[misc]

    def _save_more(self, folder: Path) -> None:
        """Saves state that a trainer keeps beyond the Trainer's own. Every process calls it."""


def _model_alone() -> AbstractContextManager[None]:
    """In here Transformers uploads no `KEPT_HERE`."""
    stock = trainer.hf_api
    return replaced(trainer, "hf_api", lambda: _WithoutRun(stock()))


class _WithoutRun:
    """The API of the hub, which leaves `KEPT_HERE` out of folders that are uploaded."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def upload_folder(self, *, ignore_patterns: Sequence[str] = (), **kwargs: Any) -> Any:
        return self._api.upload_folder(ignore_patterns=[*ignore_patterns, *KEPT_HERE], **kwargs)


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest marked checkpoint of a run directory."""
    return max((mark.parent for mark in _marks(output_dir)), key=step_of, default=None)


def newest_unmarked(output_dir: str | Path, *, behind: Path | None) -> Path | None:
    """The newest checkpoint of a run directory that does not count, if it is newer than the checkpoint `behind`."""
    first = 0 if behind is None else step_of(behind)
    folders = (path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir())
    numbered = [folder for folder in folders if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name)]
    unmarked = (folder for folder in numbered if step_of(folder) > first and not (folder / MARK).exists())
    return max(unmarked, key=step_of, default=None)


def kept_checkpoints(output_dir: str | Path) -> list[Path]:
    """A run directory's marked checkpoints by step, without those of a run before it; all where none has a mark."""
    marked = [mark.parent for mark in _marks(output_dir)]
    folders = marked or [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted(folders, key=step_of)


def discount_checkpoints(output_dir: str | Path, *, behind: int = 0) -> None:
    """Takes the marks off a run's checkpoints after a step from which it goes on; anew, off its model too."""
    for mark in _marks(output_dir):
        if step_of(mark.parent) > behind:
            mark.unlink()
    if not behind:
        (Path(output_dir) / LAST_GOOD / MARK).unlink(missing_ok=True)
        reopen(output_dir)


def reopen(output_dir: str | Path) -> None:
    """Takes the marks off a run's model: it is being trained again."""
    for name in (LAST_FILE, COMPLETE):
        (Path(output_dir) / name).unlink(missing_ok=True)
    (Path(output_dir) / UNFINISHED).touch()


def _marks(output_dir: str | Path) -> list[Path]:
    return list(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{MARK}"))


def step_of(checkpoint: str | Path) -> int:
    """The step after which a checkpoint was taken.

    >>> step_of("runs/rl/checkpoint-40")
    40
    """
    return int(Path(checkpoint).name.rpartition("-")[2])


def is_finished(folder: str | Path) -> bool:
    """Returns True if a training has left its model in `folder`."""
    return (Path(folder) / LAST_FILE).exists() and not (Path(folder) / UNFINISHED).exists()


def is_complete(folder: str | Path) -> bool:
    """Returns True if a training has left its model in `folder` after all of its steps."""
    return is_finished(folder) and (Path(folder) / COMPLETE).exists()
