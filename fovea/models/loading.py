"""Loading of models, ready for the zoom protocol."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fovea.boxes import Frame
from fovea.images import PixelLimits
from fovea.kernels.image_blocks import apply_image_blocks
from fovea.kernels.image_features import remember_image_features
from fovea.kernels.vision_attention import batch_vision_attention
from fovea.models.masks import read_beside_adapter
from fovea.models.names import adapter_chain, base_of, resolve_path
from fovea.models.processors import load_processor, pixel_limits

FRAMES = {
    "qwen2_5_vl": Frame.INPUT,
    "qwen2_vl": Frame.PER_MILLE,
    "qwen3_vl": Frame.PER_MILLE,
    "qwen3_vl_moe": Frame.PER_MILLE,
    "llava_onevision": Frame.PER_MILLE,
}
"""The model families that are known, and the frame in which each was taught to write boxes.

Qwen2-VL: arXiv 2409.12191, section 2.2.1; Qwen2.5-VL: arXiv 2502.13923, section 2.2.1. LLaVA-OneVision was taught none:
its cold start teaches per-mille.
"""
DEFAULT_SYSTEM = dict.fromkeys(("qwen2_5_vl", "qwen2_vl"), "You are a helpful assistant.")
"""The system prompt that a family's released template puts before a bare question, where it has one."""
FEATURE_BYTES = 2**30
"""Memory for the image features of a frozen vision tower."""


@dataclass(frozen=True)
class Model:
    """A model with its processor, and what its family implies."""

    network: Any
    processor: Any
    name: str

    @property
    def frame(self) -> Frame:
        """The family's box frame."""
        return FRAMES[self.network.config.model_type]

    @property
    def default_system(self) -> str | None:
        """The system prompt that the model was released with; None where there is none, or it is not known."""
        return None if self.network is None else DEFAULT_SYSTEM.get(self.network.config.model_type)

    @property
    def limits(self) -> PixelLimits:
        """The limits within which its processor leaves images as they are."""
        return pixel_limits(self.processor)

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end what the model writes, by its generation_config."""
        ids = getattr(self.network, "generation_config", None)
        ids = None if ids is None else ids.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


@dataclass(frozen=True)
class RemoteModel(Model):
    """A model behind an endpoint, without weights here: boxes in per-mille, images within Fovea's own limits."""

    network: Any = None
    processor: Any = None
    name: str = ""
    remote_limits: PixelLimits = field(default_factory=lambda: PixelLimits(56 * 56, 4_194_304, 28))

    @property
    def frame(self) -> Frame:
        return Frame.PER_MILLE

    @property
    def limits(self) -> PixelLimits:
        return self.remote_limits


def checked_config(name: str, **options: Any) -> Any:
    """The configuration of a whole model.

    Raises:
        ValueError: for a family that is not in `FRAMES`.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, **options)
    if config.model_type not in FRAMES:
        raise ValueError(
            f"{name} is a {config.model_type}, which Fovea does not support: use one of {', '.join(FRAMES)}"
        )
    return config


def load_model(
    name: str,
    *,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    keep_adapter: bool = False,
    **kwargs: Any,
) -> Model:
    """A model and its processor, ready for the zoom protocol.

    Adapters load on top of the base they name, one after the other, and are merged; with `keep_adapter` the last is
    left as it is, to be trained on. `min_pixels` and `max_pixels` set the processor's limits.

    Raises:
        ValueError: for a model of a family that is not in `FRAMES`.
    """
    from transformers import AutoModelForImageTextToText

    base, adapters = adapter_chain(name, revision=revision)
    options = {"revision": None if adapters else revision, "trust_remote_code": trust_remote_code}
    checked_config(base, **options)
    network: Any = AutoModelForImageTextToText.from_pretrained(
        base, dtype=dtype, attn_implementation=attn_implementation, **options, **kwargs
    )
    network = quickened(network)
    apply_image_blocks(network)
    for adapter in adapters:
        from peft import PeftModel

        read_beside_adapter(network, Path(adapter))
        network = PeftModel.from_pretrained(network, adapter, is_trainable=keep_adapter and adapter == adapters[-1])
        if not (keep_adapter and adapter == adapters[-1]):
            with _whole_weights(network):
                network = network.merge_and_unload()
            for parameter in filter(torch.is_floating_point, network.parameters()):
                parameter.requires_grad_()  # PEFT has frozen them
    sources = [place for place in (*reversed(adapters), base) if (Path(place) / "tokenizer_config.json").exists()]
    processor = load_processor([*sources, base][0], min_pixels=min_pixels, max_pixels=max_pixels, **options)
    return Model(network, processor, name)


def _whole_weights(network: Any) -> AbstractContextManager:
    """Inside, processes that hold parts of the weights (ZeRO-3) hold all of them, and afterwards their parts again."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(network.parameters()), modifier_rank=0)


def quickened(network: Any) -> Any:
    """The network itself, which from now on encodes equal images once and images of equal size together."""
    remember_image_features(network, max_bytes=FEATURE_BYTES)
    return batch_vision_attention(network)


def load_outline(name: str, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Model:
    """A model whose weights another engine holds: its configuration, its processor, and a network of no memory.

    Raises:
        ValueError: for an adapter, which engines do not take: merge it first.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText, GenerationConfig

    path = resolve_path(name)
    if base_of(name) != path:
        raise ValueError(f"{name} is an adapter, and vLLM takes whole models: `fovea merge {name} --output_dir DIR`")
    with init_empty_weights():
        network = AutoModelForImageTextToText.from_config(checked_config(path))
    with suppress(OSError):  # a model need not have one
        network.generation_config = GenerationConfig.from_pretrained(path)
    return Model(network, load_processor(path, min_pixels=min_pixels, max_pixels=max_pixels), name)


VISION_PARTS = ("visual.", "vision_tower.", "multi_modal_projector.", "image_newline")
"""Name prefixes of the vision tower and its projector."""
PROJECTOR_PARTS = ("visual.merger.", "visual.deepstack_merger_list.", "multi_modal_projector.")
"""Name prefixes of the projector, which hands features on to the language tower."""


def freeze_vision(network: Any, *, train_projector: bool = False) -> None:
    """Stops gradients into the vision tower, projector included unless it is to be trained."""
    for name, parameter in network.named_parameters():
        is_projector = any(f".{part}" in f".{name}" for part in PROJECTOR_PARTS)
        if any(f".{part}" in f".{name}" for part in VISION_PARTS) and not (train_projector and is_projector):
            parameter.requires_grad_(False)


LANGUAGE_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The linear layers of the language tower, as PEFT's `target_modules` pattern."""
