"""The trained model: weights that TRL's arguments name, an adapter, and the reference of the KL term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from peft import PeftConfig
from torch.nn import Dropout, Identity
from trl import ModelConfig, get_peft_config, get_quantization_config

from fovea.config import ConfigError
from fovea.kernels.image_blocks import block_images
from fovea.models.loading import LANGUAGE_LINEARS, VISION_PARTS, Model, freeze_vision, load_model
from fovea.models.masks import parse_layers
from fovea.models.names import adapter_chain
from fovea.processes import process_state, take_cores


@dataclass(frozen=True)
class Trainee:
    """The trained model, and the new adapter that its trainer adds, if any."""

    model: Model
    new_adapter: PeftConfig | None
    stands_on: str | None
    """The adapter that is merged below the new one: the whole model that PEFT would name is not all of it."""
    load_again: Callable[[], Model]
    """Loads the model as it was before training, adapters merged: the reference of GRPO's KL term."""

    def named(self, trainer: Any) -> Any:
        """The trainer itself, after its adapter was told the name of its true base."""
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
        **options,
        **_quantized(arguments),
    )
    model = load(keep_adapter=continues_adapter)
    if intra_image_layers is not None:
        _mask_images(model, intra_image_layers)
    if continues_adapter:  # PEFT has frozen all but the adapter, which may reach into the vision tower
        _set_dropout(model.network, getattr(new_adapter, "lora_dropout", 0.0))
        return Trainee(model, None, None, load)
    if not train_vision:
        freeze_vision(model.network, train_projector=train_projector)
    if process_state().is_main_process:
        print(_what_is_trained(new_adapter, train_vision=train_vision, train_projector=train_projector), flush=True)
    stands_on = adapters[-1] if adapters and new_adapter is not None else None
    return Trainee(model, new_adapter, stands_on, load)


def _mask_images(model: Model, layers: str) -> None:
    """Raises ConfigError for layers that cannot be masked."""
    try:
        block_images(model.network, model.processor.tokenizer, parse_layers(layers))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _what_is_trained(new_adapter: PeftConfig | None, *, train_vision: bool, train_projector: bool) -> str:
    """One line on which weights a training moves."""
    if new_adapter is not None:
        return "training: a new adapter; all other weights stay as they are"
    more = "and the vision tower" if train_vision else "and the projector" if train_projector else ""
    kept = "" if train_vision else "; the vision tower stays as it is"
    return f"training: all weights of the language tower {more}".rstrip() + kept


def _quantized(arguments: ModelConfig) -> dict[str, Any]:
    """Quantization options of loading, empty without any. Head and vision tower are never quantized."""
    quantization = get_quantization_config(arguments)
    if quantization is None:
        return {}
    quantization.llm_int8_skip_modules = ["lm_head", *(rf".*\.{part.rstrip('.')}" for part in VISION_PARTS)]
    return {"quantization_config": quantization}


def model_named(arguments: ModelConfig) -> str:
    """The name or path of the model that is to be trained.

    Raises:
        ConfigError: if there is none.
    """
    if not arguments.model_name_or_path:
        raise ConfigError("no model is named: give --model_name_or_path, a folder or a hub id")
    return arguments.model_name_or_path


def adapt_language(arguments: ModelConfig) -> None:
    """Lets a new adapter go to the linear layers of the language tower, unless the arguments say where it goes."""
    if arguments.use_peft and arguments.lora_target_modules is None and not arguments.lora_target_parameters:
        arguments.lora_target_modules = LANGUAGE_LINEARS  # type: ignore[assignment]  # PEFT takes a pattern too


ADAPTER_SHAPE = ("peft_type", "r", "lora_alpha", "target_modules", "target_parameters", "modules_to_save", "bias",
                 "use_rslora", "use_dora")  # fmt: skip
"""Settings of an adapter that must match for a training to continue its weights. Its dropout may differ."""


def _set_dropout(network: Any, rate: float) -> None:
    """Gives the layers of a loaded LoRA adapter the dropout that is asked for now."""
    for config in network.peft_config.values():
        config.lora_dropout = rate
    for module in network.modules():
        for name in getattr(module, "lora_dropout", ()):
            module.lora_dropout[name] = Dropout(rate) if rate else Identity()


def _is_like(adapter: str, wanted_config: PeftConfig) -> bool:
    """Returns True if the adapter in a folder has the shape of the wanted one."""

    def shape(config: PeftConfig) -> dict[str, Any]:
        settings = {name: getattr(config, name, None) or None for name in ADAPTER_SHAPE}
        return {name: sorted(value) if isinstance(value, (set, list)) else value for name, value in settings.items()}

    return shape(PeftConfig.from_pretrained(adapter)) == shape(wanted_config)
