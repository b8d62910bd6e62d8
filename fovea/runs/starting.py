"""Starts a training in its folder: anew, or from its last whole checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fovea.config import ConfigError
from fovea.processes import process_state
from fovea.runs.checkpoints import (
    discount_checkpoints,
    is_complete,
    is_finished,
    last_whole_checkpoint,
    newest_unmarked,
    step_of,
)
from fovea.runs.directory import RunDirectory, changes, plain

FREE_SETTINGS = re.compile(
    r"(max_steps|num_train_epochs|max_minutes|resume_from_checkpoint|output_dir|run_name|logging_.*|report_to|save_.*|"
    r"eval_(?!fraction).*|push_to_hub|hub_.*|disable_tqdm|dataloader_num_workers|local_rank|ddp_timeout|use_cpu|log_.*|"
    r"per_device_eval_batch_size|max_packed_tokens|(gradient|activation)_checkpointing(_kwargs)?|rollout_batch_size|image_cache_gib|"
    r"vllm_gpu_memory_utilization|vllm_max_model_length|vllm_enable_sleep_mode|vllm_server_.*|vllm_group_port|"
    r"dataloader_(pin_memory|prefetch_factor|persistent_workers)|torch_empty_cache_steps|ddp_bucket_cap_mb|project|trackio_.*)"
)
"""Settings that may change between a run and its continuation: neither the data nor the loss goes by them."""
NO_LENGTH = re.compile(r"(?!(?:max_steps|num_train_epochs)$).*")
"""All settings but the length of a training."""
WEIGHTS = "weights of model_name_or_path"
"""Among what a run is made of: it does not go on once the model below it was trained anew."""
STATE = "trainer_state.json"
"""The file in each checkpoint with a Trainer's progress."""


@dataclass(frozen=True)
class Start:
    """The start of a run. Nothing is written before `begin`, so that an error found until then costs nothing."""

    run: RunDirectory
    checkpoint: str | None
    settings: Mapping[str, Any]

    def begin(self) -> None:
        """Writes down how the run starts, and takes its logs back to the checkpoint.

        Not before all processes have read what the folder held: a slower one would take this run for a finished one.
        """
        process_state().wait_for_everyone()
        with process_state().main_process_first():
            if process_state().is_main_process:
                step = _step_in(Path(self.checkpoint)) if self.checkpoint else 0
                discount_checkpoints(self.run.path, behind=step)
                self.run.rewind(step)
                self.run.write_start(**self.settings)
                words = f"going on from {self.checkpoint}" if self.checkpoint else f"starting anew in {self.run.path}"
                print(words, flush=True)


def start_run(run: RunDirectory, resume: str | bool | None, **settings: Any) -> Start:
    """The start of a run, determined by the content of its folder.

    `resume` is TRL's `resume_from_checkpoint`: a checkpoint, true for the last whole one in the run's folder, false for
    a fresh start, or None for the last whole one if there is one.

    Raises:
        ConfigError: if the folder holds checkpoints of a run with other settings, or there is no such checkpoint.
        SystemExit: with code 0, if the run in the folder is complete.
    """
    asked, last = _asked(resume), last_whole_checkpoint(run.path)
    settings = {name: plain(value) for name, value in settings.items()}
    if asked is False:
        return Start(run, None, settings)
    if asked is True and last is None:
        raise ConfigError(
            f"resume_from_checkpoint is true, and {run.path} holds no whole checkpoint: leave the option out"
        )
    checkpoint = Path(asked) if isinstance(asked, str) else last
    if asked is None:
        changed = list(changes(run.settings(), settings, free=FREE_SETTINGS))
        lengths = list(changes(run.settings(), settings, free=NO_LENGTH))
        if is_complete(run.path) and not changed and not lengths:
            if process_state().is_main_process:
                print(
                    f"nothing is left to train: {run.path} is complete (--resume_from_checkpoint false starts anew, "
                    "a larger max_steps or num_train_epochs goes on)",
                    flush=True,
                )
            raise SystemExit(0)
        if (checkpoint is not None or is_finished(run.path)) and changed:
            held = checkpoint.name if checkpoint else "a model"
            raise ConfigError(
                f"{run.path} holds {held} of a run with other settings ({'; '.join(changed)}): use "
                "those settings, another --output_dir, --resume_from_checkpoint true to go on with the new ones, or "
                "--resume_from_checkpoint false to start anew in this folder"
            )
        if checkpoint is not None and lengths:
            print(f"{'; '.join(lengths)}: learning rates go by the new length, from a step of the old one", flush=True)
    if checkpoint == last and (passed := newest_unmarked(run.path, behind=last)) and process_state().is_main_process:
        print(f"{passed} is passed over: it was not written to its end, or an earlier run left it", flush=True)
    if checkpoint is not None:
        _check(checkpoint, is_named=isinstance(asked, str))
    return Start(run, str(checkpoint) if checkpoint else None, settings)


def _asked(resume: str | bool | None) -> str | bool | None:
    """`resume_from_checkpoint` as YAML and command lines spell it."""
    return {"true": True, "false": False}.get(resume.lower(), resume) if isinstance(resume, str) else resume


def _check(checkpoint: Path, *, is_named: bool) -> None:
    """Raises ConfigError for a folder that no training can go on from."""
    if is_named and not (checkpoint / STATE).exists():
        raise ConfigError(
            f"resume_from_checkpoint {str(checkpoint)!r} is no checkpoint of a training, since it has no {STATE}: "
            "name a folder checkpoint-N, or true for the last one"
        )
    if (checkpoint / STATE).exists() and not any(checkpoint.glob("rng_state*.pth")):
        raise ConfigError(
            f"{checkpoint} has weights alone (save_only_model), and a training that went on from it would begin with a "
            "new optimizer and schedule: name it as --model_name_or_path with another --output_dir, or start anew with "
            "--resume_from_checkpoint false"
        )


def _step_in(checkpoint: Path) -> int:
    """The step after which a checkpoint was taken, whatever its folder is called."""
    state = checkpoint / STATE
    return int(json.loads(state.read_text())["global_step"]) if state.exists() else step_of(checkpoint)
