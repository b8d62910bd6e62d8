"""The model that the doctor examines: its weights if they are small enough, else its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from doctor.findings import Note
from fovea.arguments import PixelArguments
from fovea.config import CONFIGS
from fovea.kernels.image_blocks import block_images, image_blocks
from fovea.models.loading import Model, load_model, load_outline
from fovea.models.masks import check_engine, parse_layers
from fovea.models.names import EMBEDDED, base_of
from fovea.models.processors import limited
from fovea.models.random_models import RELEASED, random_model


def read_model(
    note: Note, name: str, pixels: PixelArguments, *, load_weights: bool | None, **options: Any
) -> tuple[Model, bool]:
    """The model called `name`, and whether its weights were loaded; of one that is not here, its shape.

    Weights are loaded if they are wanted, or else if they take a quarter of the free memory or less: they are run in
    float32.
    """
    limits: dict[str, Any] = {"min_pixels": pixels.min_pixels, "max_pixels": pixels.max_pixels}
    recipe = None if name in EMBEDDED or Path(name).exists() else _recipe_for(name)
    if recipe is not None:
        file, name = recipe
        note.warn(f"{file} has not made this model yet; examined on its base, {name}", "run that training first")
    base = name if name in RELEASED and not Path(name).exists() else base_of(name)
    if base in RELEASED and not Path(base).exists():
        shape = random_model(RELEASED[base], device="meta", dtype=torch.bfloat16)
        note.warn(
            f"{base} is examined by its known shape, with a small tokenizer that writes more tokens than its own",
            "where it is downloaded, give its folder as --model_name_or_path",
        )
        return Model(shape.network, limited(shape.processor, **limits), base), False
    if load_weights is None:
        weights = sum(file.stat().st_size for file in Path(base).glob("*.safetensors"))
        load_weights = 0 < weights <= psutil.virtual_memory().available / 4
    if not load_weights:
        note.ok(f"{name}: examined by the configuration of {base}; weights are not loaded")
        return load_outline(base, **limits), False
    model = load_model(name, **limits, **options)
    broken_weights(note, model)
    return model, True


def mask_of_images(note: Note, model: Model, layers: str | None, *, use_vllm: bool = False) -> None:
    """Layers that mask images from each other: those asked for are there, and what writes rollouts can do it."""
    if layers is not None:
        block_images(model.network, model.processor.tokenizer, parse_layers(layers))
    if use_vllm:
        check_engine(model.network, "vLLM")
    if (blocks := image_blocks(model.network)) is not None:
        number = model.network.config.get_text_config().num_hidden_layers
        note.ok(f"images are masked from each other in {len(blocks.layers)} of {number} layers")


def broken_weights(note: Note, model: Model) -> None:
    """Weights that hold NaN or infinity."""
    broken = [part for part, weight in model.network.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        note.fail(
            f"{len(broken)} weights of {model.name} hold NaN or infinity, the first is {broken[0]}",
            "use another checkpoint",
        )
        return
    size = sum(weight.numel() for weight in model.network.parameters())
    note.ok(f"{model.name}: {type(model.network).__name__} of {size / 1e6:.1f}M finite parameters")


def _recipe_for(folder: str) -> tuple[str, str] | None:
    """The shipped recipe that writes its model to `folder`, and the model it starts from."""
    for path in sorted(CONFIGS.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        if recipe.get("output_dir") == folder:
            return path.name, recipe["model_name_or_path"]
    return None
