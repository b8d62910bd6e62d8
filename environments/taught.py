"""The settings that a checkpoint has learned from, as the folder of its run keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.runs.checkpoints import LAST_GOOD
from fovea.runs.records import read_run

TAUGHT = (
    "environment", "box_frame", "crop_min_pixels", "crop_max_pixels", "crop_padding", "min_pixels", "max_pixels",
    "max_image_tokens",
)  # fmt: skip
"""What a training teaches a model to expect."""
LIMITS = ("max_turns", "max_tokens_per_turn", "max_episode_tokens")
"""How long an episode of it was allowed to be: another training may choose otherwise, an evaluation goes by them."""


def taught_settings(model: str, names: Sequence[str] = TAUGHT) -> dict[str, Any]:
    """The settings with which a checkpoint was trained, where the folder of its run says so."""
    folder = Path(model)
    run = folder.parent if folder.name.startswith("checkpoint-") or folder.name == LAST_GOOD else folder
    chosen = read_run(run).chosen("script", "episodes")
    return {name: chosen[name] for name in names if chosen.get(name) is not None}


def checkpoint_defaults(words: list[str]) -> dict[str, Any]:
    """The settings and limits of the checkpoint that a command line names, first or as an option.

    `words` then name it as an option.
    """
    if len(words) > 1 and not words[1].startswith("-"):
        words[1:2] = ["--model_name_or_path", words[1]]
    named = words.index("--model_name_or_path") + 1 if "--model_name_or_path" in words else len(words)
    return taught_settings(words[named], (*TAUGHT, *LIMITS)) if named < len(words) else {}


def untaught(model: str, *settings: Any) -> str:
    """How these settings differ from those with which a checkpoint was trained; empty if they do not."""
    now = {name: value for part in settings for name, value in vars(part).items()}
    differing = [
        f"{name} was {value}, is {now.get(name)}"
        for name, value in taught_settings(model).items()
        if now.get(name) != value
    ]
    return f"{model} was trained with other settings: {'; '.join(differing)}" if differing else ""
