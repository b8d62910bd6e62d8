"""Arguments of `train_sft.py` beside those of TRL and of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig, SFTConfig

from environments.settings import EpisodeArguments
from environments.traces import read_traces
from fovea.plugins import load_object


@dataclass
class ScriptArguments:
    """Which traces to learn from."""

    dataset_name: str = field(
        default="synthesis.oracle_traces:write_default_traces",
        metadata={"help": "traces.jsonl, the folder that holds it, or a function package.module:name that returns one"},
    )
    eval_fraction: float = field(default=0.1, metadata={"help": "Share of traces held out for the loss curve."})
    max_traces: int | None = field(default=None, metadata={"help": "Use only so many traces."})
    train_vision: bool = field(default=False, metadata={"help": "Also train the vision tower."})
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Forward a batch as one row without padding, the text that its traces share once."},
    )
    max_minutes: float | None = field(default=None, metadata={"help": "End training after so many minutes."})
    min_pixels: int | None = field(default=None, metadata={"help": "Fewest pixels of an image."})
    max_pixels: int | None = field(default=None, metadata={"help": "Most pixels of an image."})

    def read_traces(self) -> list[dict]:
        """The records of the traces that these arguments name."""
        name = self.dataset_name
        path = load_object(name)() if ":" in name and not Path(name).exists() else name
        return list(read_traces(path))[: self.max_traces]


ARGUMENTS = (ScriptArguments, EpisodeArguments, ModelConfig, SFTConfig)
"""All that `train_sft.py` takes."""
