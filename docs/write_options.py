"""Writes docs/options.md from the dataclasses of the commands: `python docs/write_options.py`. A test checks it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doctor.settings import DoctorArguments
from environments.arguments import EpisodeArguments
from evaluation.arguments import EvaluationArguments
from fovea import arguments
from rl.arguments import GRPOArguments, GRPOScriptArguments
from sft.arguments import SFTScriptArguments
from synthesis.agent.casting import RoleArguments
from synthesis.agent.command import AgentArguments
from synthesis.chains.arguments import ChainArguments
from synthesis.edited import EditArguments
from synthesis.mimic.arguments import ItemArguments
from synthesis.mimic.command import MimicArguments
from synthesis.mimic.openimages import OpenImagesArguments
from synthesis.oracle_traces import TraceArguments
from synthesis.varied import VariantArguments

PAGE = Path(__file__).with_name("options.md")
SECTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "Episodes": (
        "Images, tools and limits of an episode. SFT, GRPO, `fovea eval`, `fovea traces` and the doctor take them.",
        (EpisodeArguments,),
    ),
    "Tasks, images and engines": (
        "The source of tasks, the size of images, and the engine that runs the model.",
        (
            arguments.TaskArguments, arguments.PixelArguments, arguments.EngineArguments, arguments.PlayerArguments,
            arguments.SharingArguments, arguments.VisionArguments, arguments.MaskArguments, arguments.TimeArguments,
        ),
    ),
    "GRPO": (
        "`rl/train_grpo.py`, beside TRL's `GRPOConfig` and `ModelConfig`.", (GRPOScriptArguments, GRPOArguments)
    ),
    "SFT": ("`sft/train_sft.py`, beside TRL's `SFTConfig` and `ModelConfig`.", (SFTScriptArguments,)),
    "fovea eval": ("", (EvaluationArguments,)),
    "fovea traces": ("", (TraceArguments,)),
    "fovea traces agent": ("", (AgentArguments, RoleArguments)),
    "fovea traces chains": (
        "Beside `--prompts`, `--temperature`, `--max_tokens` and `--max_asks`, as above.", (ChainArguments,)
    ),
    "fovea doctor": ("Beside all options of the training that it checks.", (DoctorArguments,)),
    "fovea tasks mimic": ("", (ItemArguments, MimicArguments)),
    "fovea tasks openimages": ("Beside the options of items, as above.", (OpenImagesArguments,)),
    "fovea tasks edited": ("", (EditArguments,)),
    "fovea tasks varied": ("", (VariantArguments,)),
}  # fmt: skip
HEAD = """# Options

These are the options that Fovea adds. Options of TRL keep TRL's names and meaning; `--help` lists all of them.
A YAML file gives defaults (`--config a.yaml b.yaml`, the later file wins). The command line wins over both. An unknown
name is refused. Without `--config`, SFT and GRPO take `tiny_sft.yaml` and `tiny_grpo.yaml`, whose values win over the
defaults below. Commands that are not on this page tell their options by `--help`.

This page is written by `python docs/write_options.py`.
"""


def own_fields(kind: type) -> Iterator[dataclasses.Field[Any]]:
    """The fields that a class declares itself, in its order."""
    names = inspect.get_annotations(kind)
    yield from (one for one in dataclasses.fields(kind) if one.name in names)


def row(one: dataclasses.Field[Any]) -> str:
    """A line of a table."""
    if one.default_factory is not dataclasses.MISSING:
        default = one.default_factory()
    else:
        default = "required" if one.default is dataclasses.MISSING else one.default
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    shown = "" if default in (None, "") else shown if default == "required" else f"`{shown}`"
    help_text = str(one.metadata.get("help", "")).replace("|", "\\|").replace("\n", " ")
    choices = one.metadata.get("choices")
    if choices and not all(str(choice) in help_text for choice in choices):
        help_text += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    return f"| `--{one.name}` | {shown} | {help_text} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, (text, kinds) in SECTIONS.items():
        rows = [row(one) for kind in kinds for one in own_fields(kind) if one.init]
        parts.append(f"## {title}\n")
        parts += [f"{text}\n"] if text else []
        parts.append("\n".join(["| option | default | what it does |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
