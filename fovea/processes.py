"""Facts about the processes of a launch, and the number of cores for each where there is no accelerator."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState

_VARIABLE = "OMP_NUM_THREADS"
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Variables of which `accelerate launch` and `torchrun` each set one in every process that they start."""


def process_state(**options: Any) -> PartialState:
    """Accelerate's state. Without an accelerator it must be told, or each process takes itself for the only one."""
    return PartialState(cpu=_on_cpu(), **options)


def expect_cpu() -> None:
    """Tells `TrainingArguments` that are made later the same."""
    if _on_cpu():
        os.environ["ACCELERATE_USE_CPU"] = "true"


def _on_cpu() -> bool:
    """Returns True if Accelerate must be told to use the CPU: there is no accelerator, or it is not wanted.

    DeepSpeed would be left out if it were told.
    """
    return _computes_on_cpu() and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true"


def _computes_on_cpu() -> bool:
    return not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


@contextmanager
def told_to_launcher() -> Iterator[None]:
    """Hands a clear error inside on to torchrun, whose report is the last thing on the screen of several processes."""
    try:
        yield
    except SystemExit as error:
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if file and isinstance(error.code, str):
            Path(file).write_text(json.dumps({"message": error.code, "timestamp": int(time.time())}))
        raise


def take_cores() -> None:
    """Computes on this process's share of the cores, if its launcher has left it one thread.

    `accelerate launch` and `torchrun` set OMP_NUM_THREADS to 1 where the user has not set it. It says so.
    """
    if not _computes_on_cpu() or os.environ.get(_VARIABLE) != "1" or _set_by_the_user():
        return
    state = process_state()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    if (share := cores // here) > 1:
        torch.set_num_threads(share)
        if state.is_local_main_process:
            print(f"the launcher left one thread: computing on {share} of {cores} cores; set {_VARIABLE} to choose")


def _set_by_the_user() -> bool:
    """Returns True if the variable was set before a launcher could set it, or if nobody can tell.

    What a process was started with is all that can be seen of it: a shell that exports the variable passes it to the
    launcher, but does not show it itself.
    """
    if not any(name in os.environ for name in _LAUNCHED):
        return True
    try:
        parent = psutil.Process().parent()
        return parent is None or _VARIABLE in parent.environ()
    except (psutil.Error, OSError):
        return True
