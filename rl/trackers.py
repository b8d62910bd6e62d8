"""Sample trajectories as pictures, beside the metrics, in whatever `report_to` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from environments.drawing import draw
from fovea.episodes import Episode
from fovea.runs.records import Rollout

NAME = "trajectories"


class TrajectoryCallback(TrainerCallback):
    """Sends `number` of the main process's last rollouts: at the first log, then at the first after each `every` steps.

    They are taken evenly from what was played.

    `trainer.last_played` are those episodes and their records. Trackers: tensorboard, wandb, trackio.
    """

    def __init__(self, trainer: Any, *, number: int, every: int) -> None:
        self.trainer, self.number, self.every = trainer, number, every
        self.next_due = 1

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        played: Sequence[tuple[Episode, Rollout]] = self.trainer.last_played
        if not (state.is_world_process_zero and self.number and played and state.global_step >= self.next_due):
            return
        self.next_due = self.every * (state.global_step // self.every + 1)
        chosen = played[:: max(1, len(played) // self.number)][: self.number]
        pictures = [draw(episode, title=_title(state.global_step, rollout)) for episode, rollout in chosen]
        for tracker in args.report_to:
            if tracker in SENDERS:
                SENDERS[tracker](self.trainer, pictures, state.global_step)


def _title(step: int, rollout: Rollout) -> str:
    parts = [f"{name} {value:.2f}" for name, value in rollout.rewards.items() if value is not None]
    if rollout.advantage is not None:
        parts.append(f"advantage {rollout.advantage:.2f}")
    return f"step {step}: {', '.join(parts)}"


def _to_tensorboard(trainer: Any, pictures: Sequence[Image.Image], step: int) -> None:
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            for number, picture in enumerate(pictures):
                callback.tb_writer.add_image(f"{NAME}/{number}", np.asarray(picture), step, dataformats="HWC")


def _to_wandb(trainer: Any, pictures: Sequence[Image.Image], step: int) -> None:
    import wandb

    wandb.log({NAME: [wandb.Image(picture) for picture in pictures], "train/global_step": step})


def _to_trackio(trainer: Any, pictures: Sequence[Image.Image], step: int) -> None:
    import trackio

    images = {f"{NAME}/{number}": trackio.Image(picture) for number, picture in enumerate(pictures)}
    trackio.log({**images, "train/global_step": step})


SENDERS = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "trackio": _to_trackio}
