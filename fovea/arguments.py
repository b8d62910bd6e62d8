"""Arguments under the same names in every command: where tasks come from, and which model plays them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from fovea.config import ConfigError
from fovea.data.columns import known_columns, parse_columns
from fovea.data.task_files import tasks_from
from fovea.images import PixelLimits
from fovea.models.loading import Model, RemoteModel, load_model, load_outline
from fovea.models.masks import check_engine
from fovea.processes import process_state
from fovea.tasks import Task


@dataclass(kw_only=True)
class TaskArguments:
    """The source of tasks: dataset, columns, and rows to read."""

    dataset_name: str = field(
        default="synthesis.shapes:training_tasks",
        metadata={"help": "Tasks: JSONL or Parquet file, dataset folder, hub id, or a function as package.module:name"},
    )
    dataset_split: str | None = field(
        default=None, metadata={"help": "Split of a hub dataset or of a saved one (default: train)."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset with several."})
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Column names of your data, e.g. question=problem answer=reward_model.ground_truth"},
    )
    json_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns, by our names, whose texts are JSON, e.g. answer boxes: for Parquet files of mixed types."
        },
    )
    skip_bad_rows: bool = field(default=False, metadata={"help": "Leave out rows that are no tasks, and count them."})
    max_tasks: int | None = field(default=None, metadata={"help": "Use only so many tasks."})

    def load_tasks(self) -> list[Task]:
        """The tasks that these arguments name."""
        return self.read_tasks(self.dataset_name, limit=self.max_tasks)

    def read_tasks(self, name: str, *, limit: int | None = None, problems: list[str] | None = None) -> list[Task]:
        """Tasks of another name, read in the same way. Faults of rows go to `problems`, if it is given."""
        return tasks_from(
            name,
            split=self.dataset_split,
            config=self.dataset_config,
            columns=parse_columns(self.columns),
            json_columns=known_columns(self.json_columns),
            skip_bad_rows=self.skip_bad_rows,
            problems=problems,
            limit=limit,
        )


@dataclass(kw_only=True)
class PixelArguments:
    """Limits on the size of images that reach the model."""

    min_pixels: int | None = field(
        default=None,
        metadata={"help": "Fewest pixels of a first view; in SFT, of any image."},
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of a first view; in SFT, of any image."}
    )


@dataclass(kw_only=True)
class TimeArguments:
    """Limits on the time of a command."""

    max_minutes: float | None = field(
        default=None, metadata={"help": "Stop after so many minutes, and keep what has been made by then."}
    )


@dataclass(kw_only=True)
class SharingArguments:
    """Sharing of computation between sequences with a common prefix."""

    shared_prefix: bool = field(
        default=True,
        metadata={
            "help": "Compute what sequences share once (GRPO: a group's prompt, in rollouts and in the loss; SFT: the "
            "text that a batch begins with), without padding. false: as stock TRL does."
        },
    )


@dataclass(kw_only=True)
class VisionArguments:
    """Parts of the vision tower that are trained beside the weights of the language tower."""

    train_vision: bool = field(default=False, metadata={"help": "Also train the vision tower, projector included."})
    train_projector: bool = field(default=False, metadata={"help": "Of the vision tower train the projector alone."})

    def refuse_beside_adapter(self, *, use_peft: bool) -> None:
        """Raises ConfigError if a new adapter would freeze what is to be trained."""
        if use_peft and (self.train_vision or self.train_projector):
            raise ConfigError(
                "train_vision and train_projector have no effect beside an adapter, which freezes all other weights: "
                "leave them out, and name modules by --lora_modules_to_save (trained whole) or --lora_target_modules"
            )


@dataclass(kw_only=True)
class MaskArguments:
    """Attention between different images."""

    intra_image_layers: str | None = field(
        default=None,
        metadata={
            "help": "Layers of the language tower, e.g. 14-27, in which the tokens of an image attend to that image "
            "alone, if a conversation opens with several. Checkpoints keep it. vLLM cannot run such models."
        },
    )


@dataclass(kw_only=True)
class EngineArguments:
    """Arguments of vLLM beyond those that Fovea sets."""

    vllm_engine_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "More arguments of vllm.LLM as JSON, for an engine in this process; they win over ours."},
    )

    @property
    def engine_kwargs(self) -> dict[str, Any]:
        """`vllm_engine_kwargs` as a dictionary."""
        engine_arguments = self.vllm_engine_kwargs or {}
        return json.loads(engine_arguments) if isinstance(engine_arguments, str) else engine_arguments


@contextmanager
def said_in_a_line() -> Iterator[None]:
    """Turns errors of loading from files or from the hub into a ConfigError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


@dataclass(kw_only=True)
class PlayerArguments(TaskArguments, PixelArguments, EngineArguments):
    """The model that plays, the tasks, and the sampling."""

    model_name_or_path: str = field(default="tiny", metadata={"help": "Checkpoint: folder, hub id, adapter or tiny."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy; above it, episodes are sampled."})
    batch_size: int = field(default=64, metadata={"help": "Episodes that run side by side."})
    dtype: str = field(default="auto", metadata={"help": "Weights' type: auto, bfloat16, float32."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda if present."})
    seed: int = field(default=0, metadata={"help": "Seed of sampling."})
    use_vllm: bool = field(default=False, metadata={"help": "Let vLLM run the model, in this process."})
    vllm_server_base_url: str | None = field(
        default=None, metadata={"help": "Let a server run it: `vllm serve CHECKPOINT --enable-scale-out`."}
    )
    openai_base_url: str | None = field(
        default=None,
        metadata={
            "help": "Ask an OpenAI-compatible endpoint instead, as https://host/v1; model_name_or_path is the name it "
            "knows, OPENAI_API_KEY its key. Boxes are per-mille unless --box_frame says otherwise."
        },
    )

    def load(self) -> tuple[Model, list[Task]]:
        """The model, and the tasks that it is to play.

        Raises:
            ConfigError: if one of them is not there, or cannot be read.
        """
        with said_in_a_line():
            return self.load_model(), self.load_tasks()

    def load_model(self) -> Model:
        """The model, frozen, on its device; without weights if vLLM holds them."""
        name, min_pixels, max_pixels = self.model_name_or_path, self.min_pixels, self.max_pixels
        if self.openai_base_url:
            check_engine(name, "an endpoint")
            default_limits = RemoteModel().limits
            pixel_limits = PixelLimits(
                min_pixels or default_limits.min_pixels, max_pixels or default_limits.max_pixels, default_limits.factor
            )
            return RemoteModel(name=name, remote_limits=pixel_limits)
        if self.use_vllm or self.vllm_server_base_url:
            outline = load_outline(name, min_pixels=min_pixels, max_pixels=max_pixels)
            check_engine(outline.network, "vLLM")
            return outline
        model = load_model(name, dtype=self.dtype, min_pixels=min_pixels, max_pixels=max_pixels)
        here = f"cuda:{process_state().local_process_index}" if torch.cuda.is_available() else "cpu"
        model.network.requires_grad_(False).to(self.device or here)
        return model
