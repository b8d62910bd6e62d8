"""Options that all makers of traces have under the same names."""

from __future__ import annotations

from dataclasses import dataclass, field

from fovea.arguments import PixelArguments, TaskArguments


@dataclass(kw_only=True)
class TraceSourceArguments(TaskArguments, PixelArguments):
    """Which tasks become traces, for which model, and where they go."""

    output_dir: str = field(metadata={"help": "Folder for traces.jsonl and the images as the model sees them."})
    dataset_name: str = field(
        default="", metadata={"help": "Tasks: file, folder or hub id (default: fresh procedural scenes)."}
    )
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its processor and frame make the traces."}
    )
