"""Code that SFT and GRPO share: start, end and monitoring of a training."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from fovea.kernels.image_blocks import image_blocks
from fovea.kernels.layouts import without_adapters
from fovea.ledger import LEDGER, count, phase
from fovea.models.masks import card, check_same_mask, save_beside_adapter
from fovea.processes import process_state
from fovea.runs.checkpoints import COMPLETE, UNFINISHED, WholeCheckpoints, is_finished, last_whole_checkpoint, reopen
from fovea.runs.directory import RunDirectory
from fovea.runs.model_card import with_base

logger = logging.getLogger(__name__)


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
    warn_of_rounding(trainer)
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
    if process_state().is_main_process:
        (run.path / UNFINISHED).unlink(missing_ok=True)
    if trainer.state.global_step >= trainer.state.max_steps and process_state().is_main_process:
        (run.path / COMPLETE).touch()
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    if best and process_state().is_main_process:
        reached = f"{trainer.args.metric_for_best_model} {trainer.state.best_metric:.4g}"
        print(f"{run.path} holds the weights of {Path(best).name}, the best one: {reached}")


TYPICAL_WEIGHT = 0.02
"""Standard deviation of the weights of released language towers."""


def lost_to_rounding(dtype: torch.dtype, rate: float) -> str | None:
    """The reason that training 16-bit weights without a copy in float32 hardly moves them; None if it moves them.

    Adam's steps are about as large as the rate, and less than half the distance between two numbers is rounded away:
    of bfloat16 (8 bits of significand) that is 2^-9 of a weight.
    """
    if dtype not in (torch.bfloat16, torch.float16) or rate >= TYPICAL_WEIGHT * torch.finfo(dtype).eps / 4:
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"weights are trained in {name} without a copy in float32: at a rate of {rate:g} most updates round to nothing"
    )


ROUNDING_CURE = "launch with configs/accelerate/zero2.yaml, also on one GPU, or set --dtype float32 or --use_peft true"


def warn_of_rounding(trainer: Any) -> None:
    """Says on the main process that a training would hardly move its weights."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    trained = {weight.dtype for weight in network.parameters() if weight.requires_grad}
    if trainer.is_deepspeed_enabled or getattr(network, "peft_config", None) or not process_state().is_main_process:
        return
    for dtype in trained:
        if problem := lost_to_rounding(dtype, trainer.args.learning_rate):
            logger.warning(f"{problem}: {ROUNDING_CURE}")


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
    """Starts the ledger with the training, times the optimizer, and writes the ledger at every log."""

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
    """Ends training after the first step that is over once `minutes` have passed, with a checkpoint to go on from.

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
            if broadcast_object_list(is_over)[0]:
                control.should_training_stop = True
                control.should_save = control.should_save or args.save_strategy != "no"
