"""What SFT and GRPO share: the model they train, and what they watch a training by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from peft import PeftConfig
from transformers import TrainerCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from fovea.config import ConfigError
from fovea.kernels.image_blocks import block_images, image_blocks
from fovea.kernels.layouts import without_adapters
from fovea.ledger import LEDGER, count, phase
from fovea.models.loading import LANGUAGE_LINEARS, VISION_PARTS, Model, freeze_vision, load_model
from fovea.models.masks import card, check_same_mask, parse_layers, save_beside_adapter
from fovea.models.names import adapter_chain
from fovea.processes import process_state, take_cores
from fovea.runs.checkpoints import COMPLETE, WholeCheckpoints, is_finished, last_whole_checkpoint, reopen
from fovea.runs.directory import RunDirectory
from fovea.runs.model_card import with_base


@dataclass(frozen=True)
class Trainee:
    """What is trained: the model, and the new adapter that its trainer is to put on it, if any."""

    model: Model
    new_adapter: PeftConfig | None
    stands_on: str | None
    """The adapter that is merged below the new one: the whole model that PEFT would name is not all of it."""
    load_again: Callable[[], Any]
    """Loads the network as it was before training: what GRPO's KL term compares with."""

    def named(self, trainer: Any) -> Any:
        """The trainer itself, whose adapter from now on says what it really stands on."""
        if self.stands_on is not None:
            trainer.model.peft_config["default"].base_model_name_or_path = self.stands_on
        return trainer


def load_for_training(
    arguments: ModelConfig,
    *,
    min_pixels: int | None,
    max_pixels: int | None,
    train_vision: bool = False,
    train_projector: bool = False,
    intra_image_layers: str | None = None,
    **options: Any,
) -> Trainee:
    """The model that TRL's `arguments` name, its vision tower frozen; adapters go to the language tower by default.

    Of a quantized model the vision tower stays as it is: it is small, and it is what sees. A checkpoint that is an
    adapter is trained on as it is if the arguments ask for an adapter like it. For another one it is merged, and the
    new adapter names it as its base.
    """
    take_cores()
    quantization = get_quantization_config(arguments)
    if quantization is not None:
        quantization.llm_int8_skip_modules = ["lm_head", *(rf".*\.{part.rstrip('.')}" for part in VISION_PARTS)]
    adapt_language(arguments)
    new_adapter = get_peft_config(arguments)
    name = model_named(arguments)
    try:
        _, adapters = adapter_chain(name, revision=arguments.model_revision)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from error
    continues_adapter = bool(adapters) and new_adapter is not None and _is_like(adapters[-1], new_adapter)
    load = partial(
        load_model,
        name,
        dtype=arguments.dtype or "auto",
        attn_implementation=arguments.attn_implementation,
        revision=arguments.model_revision,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        **{**options, **({"quantization_config": quantization} if quantization else {})},
    )
    model = load(keep_adapter=continues_adapter)

    def load_again() -> Any:
        return load().network

    if intra_image_layers is not None:
        try:
            block_images(model.network, model.processor.tokenizer, parse_layers(intra_image_layers))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if continues_adapter:  # PEFT has frozen all but the adapter, which may reach into the vision tower
        return Trainee(model, None, None, load_again)
    if not train_vision:
        freeze_vision(model.network, train_projector=train_projector)
    stands_on = adapters[-1] if adapters and new_adapter is not None else None
    return Trainee(model, new_adapter, stands_on, load_again)


def model_named(arguments: ModelConfig) -> str:
    """The name or path of the model that is to be trained.

    Raises:
        ConfigError: if there is none.
    """
    if not arguments.model_name_or_path:
        raise ConfigError("no model is named: give --model_name_or_path, a folder or a hub id")
    return arguments.model_name_or_path


def adapt_language(arguments: ModelConfig) -> None:
    """Lets a new adapter go to the linear layers of the language tower, unless the arguments name its modules."""
    if arguments.use_peft and not arguments.lora_target_modules:
        arguments.lora_target_modules = LANGUAGE_LINEARS  # type: ignore[assignment]  # PEFT takes a pattern too


ADAPTER_SHAPE = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "use_rslora", "use_dora")
"""What of an adapter's settings has to be the same for training to go on with its weights."""


def _is_like(adapter: str, wanted_config: PeftConfig) -> bool:
    """Whether the adapter in a folder has the shape of the one that is wanted."""

    def shape(config: PeftConfig) -> dict[str, Any]:
        settings = {name: getattr(config, name, None) or None for name in ADAPTER_SHAPE}
        return {name: sorted(value) if isinstance(value, (set, list)) else value for name, value in settings.items()}

    return shape(PeftConfig.from_pretrained(adapter)) == shape(wanted_config)


class MaskedCheckpoints(WholeCheckpoints):
    """Mixed into a Trainer: whole checkpoints that also say which layers mask images from each other, if any do."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Transformers' method of the same name, which writes an adapter without its base's configuration."""
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self.args.should_save:
            for folder in {output_dir or self.args.output_dir, self.args.output_dir}:  # the latter is pushed to the hub
                save_beside_adapter(self.accelerator.unwrap_model(self.model), Path(folder))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's method of the same name, and what a reader of the weights would not see in them."""
        super().create_model_card(*args, **kwargs)  # type: ignore[misc]
        if not self.accelerator.is_main_process:
            return
        folder = Path(self.args.output_dir)
        path = folder / "README.md"
        text = with_base(path.read_text(), folder, self.args.hub_model_id or str(folder))
        blocks = image_blocks(self.accelerator.unwrap_model(self.model))
        path.write_text(text if blocks is None else f"{text}\n{card(blocks)}")


def train(trainer: Any, run: RunDirectory, *, checkpoint: str | None, max_minutes: float | None) -> None:
    """Trains to the end, with metrics.jsonl, ledger.json and a time limit, and saves the model. Call it last.

    Raises:
        ConfigError: if the checkpoint was trained with other layers masked: a Trainer reads weights alone.
    """
    if checkpoint is not None:
        check_same_mask(Path(checkpoint), trainer.accelerator.unwrap_model(trainer.model))
    trainer.add_callback(EndCallback(run))
    trainer.add_callback(MetricsCallback(run))
    trainer.add_callback(TimeLimitCallback(max_minutes))
    keep_ledger(trainer, run)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except _NothingLeft as end:
        print(end, flush=True)
        if is_finished(run.path):
            leave_together(trainer)
            return
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()  # as the Trainer would have done at the end, had it not been killed there
    except KeyboardInterrupt:
        last = last_whole_checkpoint(run.path)
        goes_on = f"goes on from {last}" if last else "begins anew: no checkpoint was written yet (--save_steps)"
        raise SystemExit(f"interrupted after step {trainer.state.global_step}; the same command {goes_on}") from None
    save_together(trainer)
    if trainer.state.global_step >= trainer.state.max_steps and process_state().is_main_process:
        (run.path / COMPLETE).touch()
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    if best and process_state().is_main_process:
        reached = f"{trainer.args.metric_for_best_model} {trainer.state.best_metric:.4g}"
        print(f"{run.path} holds the weights of {Path(best).name}, the best one: {reached}")


def save_together(trainer: Any) -> None:
    """Saves the model; processes leave together."""
    trainer.save_model()
    leave_together(trainer)


def leave_together(trainer: Any) -> None:
    """Lets no process leave before the others: a launcher ends those that write when another has left.

    Collectives end with it.
    """
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


class _NothingLeft(Exception):
    """Leaves a training that was at its end when it went on."""


class EndCallback(TrainerCallback):
    """Takes no step beyond the last: the Trainer, going on from a checkpoint at `max_steps`, would take one more.

    A run that takes steps is not finished any more.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _NothingLeft(f"nothing is left to train: {state.global_step} of {state.max_steps} steps are done")
        if state.is_world_process_zero:
            reopen(self.run.path)


class MetricsCallback(TrainerCallback):
    """Appends every log of the main process to metrics.jsonl."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self.run.add_metrics({"step": state.global_step, **logs})


PHASES = {
    "compute_loss": "loss",
    "_get_per_token_logps_and_entropies": "log-probs",
    "_calculate_rewards": "rewards",
    "log": "logging",
    "_save_checkpoint": "checkpoints",
}
"""Methods of TRL's trainers, and the phase that their time is charged to."""


def keep_ledger(trainer: Any, run: RunDirectory) -> None:
    """Charges a training to the ledger, which is printed at its end and kept in the run as ledger.json."""
    for method in PHASES.keys() & set(dir(trainer)):
        setattr(trainer, method, phase(PHASES[method])(getattr(trainer, method)))
    trainer.accelerator.backward = phase("backward")(trainer.accelerator.backward)
    network = without_adapters(trainer.accelerator.unwrap_model(trainer.model))
    network.get_decoder().register_forward_pre_hook(_count_tokens, with_kwargs=True)
    trainer.add_callback(LedgerCallback(run))


def _count_tokens(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    inputs = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
    count("tokens forwarded", inputs.shape[:2].numel())


class LedgerCallback(TrainerCallback):
    """Starts the ledger with the training, times the optimizer, and keeps what is known at every log."""

    def __init__(self, run: RunDirectory) -> None:
        self.path = run.path / "ledger.json"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        LEDGER.restart(self.path if state.global_step > 0 else None)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        LEDGER.enter("optimizer")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        LEDGER.leave()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            LEDGER.write(self.path)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            LEDGER.write(self.path)
            print(LEDGER.table(), flush=True)


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
            is_over = [time.monotonic() - self.started > 60 * self.minutes]
            control.should_training_stop = broadcast_object_list(is_over)[0] or control.should_training_stop
