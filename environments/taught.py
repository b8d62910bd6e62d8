"""The settings that a checkpoint has learned from, as the folder of its run keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.config import value_of
from fovea.runs.checkpoints import LAST_GOOD
from fovea.runs.records import read_run

TAUGHT = (
    "environment", "box_frame", "crop_min_pixels", "crop_max_pixels", "crop_padding", "min_pixels", "max_pixels",
    "max_image_tokens",
)  # fmt: skip
"""Settings that a training teaches the model to expect."""
KEPT = ("min_pixels", "max_pixels")
"""Of these, what a processor keeps with its checkpoint where a training says nothing."""
LIMITS = ("max_turns", "max_tokens_per_turn", "max_episode_tokens")
"""Limits of the training's episodes. Another training may choose others; an evaluation uses these."""


def taught_settings(model: str, names: Sequence[str] = TAUGHT) -> dict[str, Any]:
    """The settings with which a checkpoint was trained, where the folder of its run says so."""
    chosen = _chosen(model)
    return {name: chosen[name] for name in names if chosen.get(name) is not None}


def _chosen(model: str) -> dict[str, Any]:
    folder = Path(model)
    run = folder.parent if folder.name.startswith("checkpoint-") or folder.name == LAST_GOOD else folder
    return read_run(run).chosen("script", "episodes")


def checkpoint_defaults(words: list[str]) -> dict[str, Any]:
    """The settings and limits of the checkpoint that a command line names, first or as an option.

    `words` then name it as an option.
    """
    if len(words) > 1 and not words[1].startswith("-"):
        words[1:2] = ["--model_name_or_path", words[1]]
    model = value_of("model_name_or_path", words[1:])
    return taught_settings(model, (*TAUGHT, *LIMITS)) if model else {}


def untaught(model: str, *settings: Any) -> str:
    """Differences between these settings and those that a checkpoint was trained with; empty without a difference."""
    now = {name: value for part in settings for name, value in vars(part).items()}
    before = _chosen(model)
    differing = [
        f"{name} was {before[name]}, is {now.get(name)}"
        for name in TAUGHT
        if name in before and now.get(name) != before[name] and (name not in KEPT or before[name] is not None)
    ]
    return f"{model} was trained with other settings: {'; '.join(differing)}" if differing else ""
