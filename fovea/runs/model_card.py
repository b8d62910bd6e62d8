"""Facts that TRL's model card lacks: a base that is a folder, and the prompt of a model that looks."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import ModelCard

from fovea.runs.records import read_run

_NO_BASE = "[None](https://huggingface.co/None)"
_QUICK_START = re.compile(r"## Quick start\n.*?(?=\n## )", re.DOTALL)


def with_base(text: str, folder: Path, name: str) -> str:
    """TRL's card for the run in `folder`, with its base named, and asked as `name` by `fovea eval`."""
    base = read_run(folder).chosen("script", "model").get("model_name_or_path")
    text = text.replace(_NO_BASE, f"`{base}`" if base else "another model")
    command = f"fovea eval {name} --dataset_name tasks.jsonl --output_dir evaluation"
    start = f"## Quick start\n\nThe model answers in turns, with tools. Fovea plays them:\n\n```sh\n{command}\n```\n"
    return _QUICK_START.sub(lambda _: start, text)


def of_merged(text: str, folder: Path, name: str) -> str:
    """The card of the adapter in `folder` as that of the whole model `name` which it was merged into."""
    card = ModelCard(with_base(text, folder, name), ignore_metadata_errors=True)
    tags = [tag for tag in card.data.get("tags") or [] if tag != "lora" and not tag.startswith("base_model:adapter:")]
    card.data["library_name"], card.data["tags"] = "transformers", tags
    return str(card)
