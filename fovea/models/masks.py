"""Intra-image attention of checkpoints: its layers as options write them, kept beside weights, and told to readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fovea.config import ConfigError
from fovea.kernels.image_blocks import KEY, ImageBlocks, apply_image_blocks
from fovea.kernels.layouts import without_adapters
from fovea.models.names import ADAPTER_CONFIG

ADAPTER_FILE = f"{KEY}.json"
"""The file in an adapter's folder with settings that a whole model has in its configuration."""


def parse_layers(text: str) -> list[int]:
    """Layers as they are written in options: numbers and inclusive ranges.

    >>> parse_layers("0,14-17")
    [0, 14, 15, 16, 17]

    Raises:
        ValueError: for anything else.
    """
    layers: list[int] = []
    for part in str(text).split(","):  # YAML reads "14" as a number
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise ValueError(f"layers {text!r}: write numbers and ranges from 0, as 14-27 or 0,12-23")
        layers += range(int(first), int(last or first) + 1)
    return layers


def save_beside_adapter(network: Any, folder: Path) -> None:
    """Writes the mask into an adapter's folder, in place of an earlier one; whole models keep it in config.json."""
    spec = getattr(without_adapters(network).config, KEY, None)
    (folder / ADAPTER_FILE).unlink(missing_ok=True)
    if spec is not None and network is not without_adapters(network):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ADAPTER_FILE).write_text(json.dumps(spec))


def saved_mask(folder: Path) -> Any:
    """The intra-image mask stored in the folder of a model or an adapter; None without one, or without a folder."""
    if (folder / ADAPTER_FILE).exists():
        return json.loads((folder / ADAPTER_FILE).read_text())
    if (folder / ADAPTER_CONFIG).exists() or not (folder / "config.json").exists():
        return None
    return json.loads((folder / "config.json").read_text()).get(KEY)


def read_beside_adapter(network: Any, folder: Path) -> None:
    """Puts into effect what `save_beside_adapter` wrote, if it wrote anything."""
    if (folder / ADAPTER_FILE).exists():
        setattr(without_adapters(network).config, KEY, json.loads((folder / ADAPTER_FILE).read_text()))
        apply_image_blocks(network)


def check_same_mask(checkpoint: Path, network: Any) -> None:
    """Raises ConfigError if a checkpoint, where it says so, was trained with other layers masked than a network's."""
    says = any((checkpoint / name).exists() for name in ("config.json", ADAPTER_CONFIG))
    saved = saved_mask(checkpoint)
    if says and saved != getattr(without_adapters(network).config, KEY, None):
        layers = "no layer" if saved is None else f"layers {','.join(map(str, saved['layers']))}"
        raise ConfigError(
            f"{checkpoint} was trained with {layers} masked (intra_image_layers), and this training masks others: use "
            "the same, or start anew with --resume_from_checkpoint false"
        )


def check_engine(model: Any, engine: str) -> None:
    """Raises ConfigError if a network, or the model in a folder, masks images from each other, which no engine does."""
    spec = saved_mask(Path(model)) if isinstance(model, str) else getattr(without_adapters(model).config, KEY, None)
    if spec is not None:
        raise ConfigError(
            f"this model masks images from each other in {len(spec['layers'])} layers (intra-image attention), which "
            f"{engine} cannot do and would leave out in silence: let Transformers run it (without vLLM or an endpoint)"
        )


def card(blocks: ImageBlocks) -> str:
    """A section of a model card."""
    layers = ", ".join(map(str, sorted(blocks.layers)))
    return (
        "## Intra-image attention\n\n"
        f"In layers {layers} of the language tower the tokens of an image attend to tokens of that image alone, "
        "in conversations that open with several images. Fovea applies this mask when it loads the model. "
        "Transformers alone and vLLM leave it out.\n"
    )
