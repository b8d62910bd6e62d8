"""Room on disk for the checkpoints of a training."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from doctor import memory
from doctor.findings import Note
from doctor.fit import Launch
from doctor.memory import GIB, Sharding
from fovea.kernels.layouts import FAMILIES


def num_kept(args: Any, num_steps: float) -> int:
    """The most checkpoints of a training that are there at once: one is deleted after the next was written."""
    if args.save_strategy == "no" or num_steps < 1:
        return 0
    if args.save_strategy == "steps":
        every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * num_steps)
        written = math.ceil(num_steps / every)
    else:
        written = math.ceil(args.num_train_epochs)
    return written if args.save_total_limit is None else min(written, args.save_total_limit + 1)


def checkpoint_bytes(network: Any, launch: Launch) -> tuple[int, int]:
    """Bytes of a finished model on disk (an adapter alone, where one is trained), and of a checkpoint.

    DeepSpeed keeps the weights twice: as a model, and beside the optimizer.
    """
    trained = sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)
    model = trained if launch.model_args.use_peft else memory.weight_bytes(network, launch.model_args)
    if launch.args.save_only_model:
        return model, model
    stage = launch.sharding.zero_stage
    optimizer = memory.optimizer_bytes(network, launch.args.optim, Sharding(1, stage))
    return model, model * (2 if stage else 1) + optimizer


def full_disk(note: Note, network: Any, num_steps: float, launch: Launch) -> None:
    """Checkpoints that take more room than the disk has. Of families whose memory is not estimated nothing is said."""
    if network.config.model_type not in FAMILIES:
        return
    args = launch.args
    model, checkpoint = checkpoint_bytes(launch.prepare()(memory.outline(network, launch.dtype(network))), launch)
    number = num_kept(args, num_steps)
    folder = Path(args.output_dir).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    need = model + number * checkpoint
    summary = f"{number} checkpoints of {checkpoint / GIB:.2f} and the model of {model / GIB:.2f} GiB"
    if need <= free:
        note.ok(f"{summary}; {free / GIB:.0f} are free")
        return
    cures = ["a smaller --save_total_limit"] * (number > 2) + ["--save_only_model true"] * (not args.save_only_model)
    note.warn(
        f"{summary} are more than the {free / GIB:.0f} that are free at {folder}",
        " or ".join([*cures, "another --output_dir"]),
    )
