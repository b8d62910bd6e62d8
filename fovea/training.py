"""What SFT and GRPO share: the model they train, and what they watch a training by."""

from __future__ import annotations

import time
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback
from trl import ModelConfig, get_quantization_config

from fovea.models import LANGUAGE_LINEARS, Model, freeze_vision, load_model
from fovea.runs import RunDirectory


def load_for_training(
    arguments: ModelConfig,
    *,
    min_pixels: int | None,
    max_pixels: int | None,
    train_vision: bool = False,
    **options: Any,
) -> Model:
    """The model that TRL's `arguments` name, its vision tower frozen; adapters go to the language tower by default."""
    quantization = get_quantization_config(arguments)
    model = load_model(
        arguments.model_name_or_path,
        dtype=arguments.dtype or "auto",
        attn_implementation=arguments.attn_implementation,
        revision=arguments.model_revision,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        **({"quantization_config": quantization} if quantization else {}),
        **options,
    )
    if not train_vision:
        freeze_vision(model.network)
    if arguments.use_peft and not arguments.lora_target_modules:
        arguments.lora_target_modules = LANGUAGE_LINEARS
    return model


class MetricsCallback(TrainerCallback):
    """Appends every log of the main process to metrics.jsonl."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self.run.add_metrics({"step": state.global_step, **logs})


class TimeLimitCallback(TrainerCallback):
    """Ends training after the first step that is over once `minutes` have passed; what was learned is saved as ever.

    The main process's clock decides for all, so that no process waits for one that has stopped.
    """

    def __init__(self, minutes: float | None) -> None:
        self.minutes = minutes
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.minutes is not None:
            over = [time.monotonic() - self.started > 60 * self.minutes]
            control.should_training_stop = broadcast_object_list(over)[0] or control.should_training_stop
