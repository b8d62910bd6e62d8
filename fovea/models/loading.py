"""Loading of models and processors: `tiny`, a local folder, a hub id, or a PEFT adapter on top of one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fovea.boxes import Frame
from fovea.images import MAX_IMAGE_PIXELS, PixelLimits
from fovea.kernels.image_features import remember_image_features
from fovea.kernels.vision_attention import batch_vision_attention

TINY = Path(__file__).resolve().parent.parent / "tiny"
FRAMES = {
    "qwen2_5_vl": Frame.INPUT,
    "qwen2_vl": Frame.INPUT,
    "qwen3_vl": Frame.PER_MILLE,
    "qwen3_vl_moe": Frame.PER_MILLE,
    "llava_onevision": Frame.PER_MILLE,
}
"""The model families that are known, and the frame in which each was taught to write boxes (LLaVA-OneVision was taught
none: its cold start teaches per-mille)."""
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
    """A model behind an endpoint, of which nothing is here: boxes in per-mille, images within limits of our own."""

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


def resolve_path(name: str) -> str:
    """Where a model name leads: `tiny` to the shipped weights, a folder to its absolute path, a hub id to itself.

    Raises:
        FileNotFoundError: for a folder without a model, or a path that leads nowhere: no hub is asked for it.
    """
    if name == "tiny":
        return str(TINY)
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or _starts_in_a_folder(path)):
        raise FileNotFoundError(f"the model folder {name} does not exist: train it first, or give a hub id")
    if path.is_dir() and not _holds_model(path):
        numbered = [folder for folder in path.glob("checkpoint-*") if folder.name.partition("-")[2].isdigit()]
        checkpoints = sorted(numbered, key=lambda folder: int(folder.name.partition("-")[2]))
        hint = f"; did you mean {checkpoints[-1]}?" if checkpoints else ""
        raise FileNotFoundError(f"{name} holds neither config.json nor adapter_config.json{hint}")
    return str(path.resolve()) if path.is_dir() else name


def _starts_in_a_folder(path: Path) -> bool:
    """Whether the first part of a relative path is a folder here, so that it is no `owner/name` of the hub."""
    return len(path.parts) > 2 or (len(path.parts) == 2 and Path(path.parts[0]).is_dir())


def adapter_chain(name: str, *, revision: str | None = None) -> tuple[str, list[str]]:
    """The whole model that `name` stands on, and the adapters on it, the first applied first; none of a whole model.

    A base that an adapter names by a relative path is looked for below each folder above the adapter, then here. The
    hub is asked whether a model there is an adapter, which is then downloaded.

    Raises:
        FileNotFoundError: if an adapter's base is not there.
        ValueError: if an adapter names no base, or adapters stand on each other in a circle.
    """
    path = _downloaded_adapter(name, revision) or resolve_path(name)
    adapters: list[str] = []
    while (config := Path(path) / ADAPTER_CONFIG).exists():
        if path in adapters:
            raise ValueError(f"{name} stands on itself: {' -> '.join([*reversed(adapters), path])}")
        adapters.insert(0, path)
        base = json.loads(config.read_text()).get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{config} names no base_model_name_or_path: write the model there that it was trained on")
        around = [str(folder / base) for folder in Path(path).resolve().parents]
        found = [place for place in around if _holds_model(place) and place not in adapters]
        try:
            path = _downloaded_adapter([*found, base][0], None) or resolve_path([*found, base][0])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapter {path} stands on {base}, which is not there ({error}): bring it back, or write its place "
                f"into base_model_name_or_path of {config}"
            ) from None
    return path, adapters


ADAPTER_CONFIG = "adapter_config.json"


def _holds_model(folder: str | Path) -> bool:
    return any((Path(folder) / file).exists() for file in ("config.json", ADAPTER_CONFIG))


def base_of(name: str) -> str:
    """The whole model that an adapter stands on in the end, as a path or hub id; of a whole model, its own."""
    return adapter_chain(name)[0]


def checked_config(name: str, **options: Any) -> Any:
    """The configuration of a whole model.

    Raises:
        ValueError: for a family that is not in `FRAMES`.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, **options)
    if config.model_type not in FRAMES:
        raise ValueError(f"{name} is a {config.model_type}, which is not known here: known are {', '.join(FRAMES)}")
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
    network = AutoModelForImageTextToText.from_pretrained(
        base, dtype=dtype, attn_implementation=attn_implementation, **options, **kwargs
    )
    network = quickened(network)
    for adapter in adapters:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, adapter, is_trainable=keep_adapter and adapter == adapters[-1])
        if not (keep_adapter and adapter == adapters[-1]):
            network = network.merge_and_unload()
    sources = [place for place in (*reversed(adapters), base) if (Path(place) / "tokenizer_config.json").exists()]
    processor = load_processor([*sources, base][0], min_pixels=min_pixels, max_pixels=max_pixels, **options)
    return Model(network, processor, name)


def _downloaded_adapter(name: str, revision: str | None) -> str | None:
    """The folder to which the hub's adapter of this name was downloaded; None for anything else."""
    from transformers.utils import find_adapter_config_file

    if Path(resolve_path(name)).is_dir():
        return None
    config = find_adapter_config_file(name, revision=revision)
    if config is None:
        return None
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision)


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


def load_processor(name: str, *, min_pixels: int | None = None, max_pixels: int | None = None, **options: Any) -> Any:
    """The processor of a model: left padding, a chat template with tools and assistant markers, pixel limits set.

    Raises:
        ValueError: for a processor without a chat template that TRL can mark assistant tokens in.
    """
    from transformers import AutoProcessor
    from trl.chat_template_utils import qwen3_vl_chat_template

    processor = AutoProcessor.from_pretrained(resolve_path(name), **options)
    processor.tokenizer.padding_side = "left"
    if type(processor).__name__ in ("Qwen2_5_VLProcessor", "Qwen2VLProcessor", "Qwen3VLProcessor"):
        processor.chat_template = qwen3_vl_chat_template
        processor.tokenizer.chat_template = qwen3_vl_chat_template
    if type(processor).__name__ == "LlavaOnevisionProcessor":
        placeholder = "<|vision_start|><|image_pad|><|vision_end|>"
        processor.chat_template = qwen3_vl_chat_template.replace(placeholder, processor.image_token)
    if not processor.chat_template:
        raise ValueError(f"{name} has no chat template: save one with its processor")
    return limited(processor, min_pixels, max_pixels)


def limited(processor: Any, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The processor itself, with these limits where they are given.

    Raises:
        ValueError: for limits of a processor that has none.
    """
    size = processor.image_processor.size
    if "longest_edge" not in size:
        if (min_pixels, max_pixels) != (None, None):
            raise ValueError(f"{type(processor).__name__} has no pixel limits: leave min_pixels and max_pixels out")
        return processor
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    processor.image_processor.size = size
    return processor


def pixel_limits(processor: Any) -> PixelLimits:
    """The limits within which a Qwen-VL processor leaves images as they are, if they lie on its patch grid.

    LLaVA-OneVision tiles an image of any size by itself: there is nothing to be fitted before.
    """
    images = processor.image_processor
    if "longest_edge" not in images.size:
        return PixelLimits(1, MAX_IMAGE_PIXELS, 1)
    return PixelLimits(images.size["shortest_edge"], images.size["longest_edge"], images.patch_size * images.merge_size)


VISION_PARTS = ("visual.", "vision_tower.", "multi_modal_projector.", "image_newline")
"""What belongs to the vision tower and its projector, by name."""


def freeze_vision(network: Any) -> None:
    """Stops gradients into the vision tower, projector included."""
    for name, parameter in network.named_parameters():
        if any(f".{part}" in f".{name}" for part in VISION_PARTS):
            parameter.requires_grad_(False)


LANGUAGE_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The linear layers of the language tower, as PEFT's `target_modules` pattern."""
