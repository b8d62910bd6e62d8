"""The training that the command line describes, and the machine that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from doctor.findings import Note
from doctor.memory import Sharding
from fovea.config import parse, read_config


@dataclass(kw_only=True)
class DoctorArguments:
    """On what the training would run, and what the doctor writes."""

    gpu_memory_gib: float | None = field(
        default=None, metadata={"help": "Memory of one GPU in GiB, which the training has to fit. Default: this one's."}
    )
    accelerate_config: str | None = field(
        default=None, metadata={"help": "The file that `accelerate launch --config_file` will get: processes, ZeRO."}
    )
    load_weights: bool | None = field(
        default=None,
        metadata={
            "help": "Load the weights and run them in float32; default: if they are here and take a quarter of the "
            "free memory or less."
        },
    )
    json: str | None = field(default=None, metadata={"help": "Write the findings to this file."})


def read_settings(note: Note, types: tuple[type, ...], default_config: str, words: Sequence[str]) -> tuple[Any, ...]:
    """One instance of each of `types` by the words on the command line, and `DoctorArguments` last."""
    words = [*words, *([] if torch.cuda.is_available() else ["--use_cpu", "true"])]
    parsed = parse((*types, DoctorArguments), default_config=default_config, arguments=words)
    note.ok("all options are known and agree with each other")
    return parsed


def read_launch(note: Note, accelerate_config: str | None) -> Sharding:
    """The processes and the ZeRO stage of the launch."""
    if accelerate_config is None:
        return Sharding()
    launch = read_config(accelerate_config)
    settings = launch.get("deepspeed_config") or {}
    uncounted = [name for name in settings if "offload" in name and settings[name] not in (None, "none")]
    uncounted += [name for name in ("deepspeed_config_file",) if settings.get(name)]
    uncounted += ["FSDP"] * (launch.get("distributed_type") == "FSDP")
    if uncounted:
        note.warn(
            f"{', '.join(uncounted)} in {accelerate_config} are not taken into account for memory",
            "read the memory below as that of ZeRO without them, and try one step before the long run",
        )
    return Sharding(int(launch.get("num_processes", 1)), int(settings.get("zero_stage", 0)))
