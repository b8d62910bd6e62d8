"""How a training starts in its folder: anew, or from its last whole checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fovea.config import ConfigError
from fovea.processes import process_state
from fovea.runs.checkpoints import discount_checkpoints, last_whole_checkpoint, step_of
from fovea.runs.directory import RunDirectory, changes

FREE_SETTINGS = re.compile(
    r"(max_steps|num_train_epochs|max_minutes|resume_from_checkpoint|output_dir|run_name|logging_.*|report_to|save_.*|"
    r"eval_.*|push_to_hub|hub_.*|disable_tqdm|dataloader_num_workers|local_rank|ddp_timeout|use_cpu|log_.*)"
)
"""Settings that may change between a run and its continuation."""
NO_LENGTH = re.compile(r"(?!(?:max_steps|num_train_epochs)$).*")
"""All settings but the length of a training."""


def start_run(run: RunDirectory, resume: str | None, **settings: Any) -> str | None:
    """Writes down how a run starts; the checkpoint that it goes on from, or None for a fresh start.

    `resume` is TRL's `resume_from_checkpoint`: a checkpoint, `false` for a fresh start, or None for the last whole
    checkpoint in the run's folder, if there is one.

    Raises:
        ConfigError: if the folder holds checkpoints of a run with other settings.
    """
    checkpoint = None if resume in ("false", "False") else resume or last_whole_checkpoint(run.path)
    if checkpoint is not None and not resume:
        changed = list(changes(run.settings(), settings, free=FREE_SETTINGS))
        if changed:
            raise ConfigError(
                f"{run.path} holds {Path(checkpoint).name} of a run with other settings ({'; '.join(changed)}): use "
                "those settings, another --output_dir, or --resume_from_checkpoint false to start anew in this folder"
            )
        if lengths := list(changes(run.settings(), settings, free=NO_LENGTH)):
            print(f"{'; '.join(lengths)}: learning rates go by the new length, from a step of the old one", flush=True)
    with process_state().main_process_first():
        if process_state().is_main_process:
            if not checkpoint:
                discount_checkpoints(run.path)
            run.rewind(step_of(checkpoint) if checkpoint else 0)
            run.write_start(**settings)
            print(f"going on from {checkpoint}" if checkpoint else f"starting anew in {run.path}", flush=True)
    return str(checkpoint) if checkpoint else None
