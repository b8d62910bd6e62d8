"""Memory of a training, computed before it starts: the training's own code runs on shapes alone.

What backward needs is found by running the loss on fake tensors and counting what is alive; weights, gradients,
optimizer states and caches are counted from shapes. All sizes are bytes on one device.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl import ModelConfig, get_peft_config
from trl.trainer.utils import add_fused_lm_head

from fovea.kernels.layouts import allow_layouts, without_adapters
from fovea.kernels.packing import Packed, Row, pack
from fovea.models.loading import VISION_PARTS, freeze_vision
from fovea.models.trainee import adapt_language

GIB = 2**30
OVERHEAD = 1.05, 3 * GIB // 4
"""Memory beyond the requested bytes: the allocator's gaps as a factor, and the CUDA context in bytes."""
ADAM_BYTES = {"8bit": 2, "deepspeed": 12}
"""Bytes a trainable parameter: both moments in 8 bits; ZeRO's float32 weights and moments (Rajbhandari et al. 2020)."""
GATHERED = 10**9
"""Parameters that ZeRO-3 keeps gathered at most (`stage3_max_live_parameters`)."""


@dataclass(frozen=True)
class Sharding:
    """Among how many processes DeepSpeed splits what; stage 0 is none."""

    num_processes: int = 1
    zero_stage: int = 0

    def share(self, num_bytes: float, *, from_stage: int) -> int:
        return int(num_bytes / self.num_processes) if self.zero_stage >= from_stage else int(num_bytes)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of it that are alive, and the most there were at once."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._part, key)

    def _part(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def loss_bytes(
    prepare: Callable[[Any], Any],
    network: Any,
    dtype: torch.dtype,
    rows: Sequence[Row],
    *,
    autocast: torch.dtype | None = None,
) -> int:
    """The most that is alive while the loss of `rows` and its gradients are computed, weights and gradients apart.

    `prepare` makes a model like `network` what is trained (adapters, checkpointing, layouts, fused head). It is run
    with two layers and with four: all further ones take as much. Images are counted by their placeholders alone, since
    a frozen tower keeps nothing for backward.
    """
    found = []
    for num_layers in (2, 4):
        trained = prepare(outline(network, dtype, num_layers=num_layers))
        packed = pack(trained, rows, image_token_id=-1)
        with FakeTensorMode(allow_non_fake_inputs=True):
            found.append(alive_in_loss(trained, packed, autocast=autocast))
    two, four = found
    return two + (four - two) * (network.config.get_text_config().num_hidden_layers - 2) // 2


def alive_in_loss(network: Any, packed: Packed, *, autocast: torch.dtype | None = None) -> int:
    """Bytes that are alive at the peak of the loss of this network, without extrapolation."""
    weights = [*network.parameters(), *network.buffers()]
    hooks = [weight.register_post_accumulate_grad_hook(_drop_gradient) for weight in weights if weight.requires_grad]
    with _Alive(weights) as alive, torch.autocast("cpu", autocast, enabled=autocast is not None):
        network(**packed.inputs, fused_lm_head=True).log_probs.sum().backward()
    for hook in hooks:
        hook.remove()
    return alive.peak


def _drop_gradient(weight: torch.Tensor) -> None:
    weight.grad = None


WHOLE_PARTS = ("lora_", "lm_head", *VISION_PARTS)
"""Parts of the names of weights that are not quantized."""


def weight_bytes(network: Any, arguments: ModelConfig) -> int:
    """All weights; the linear layers of a quantized base's language tower in the bits that they take with their scales.

    That is 4.5 bits, 4.13 with nested quantization (QLoRA, Dettmers et al. 2023, section 3), or 8.
    """
    size = 1.0 if arguments.load_in_8bit else 0.516 if arguments.use_bnb_nested_quant else 0.5625
    quantized = arguments.load_in_8bit or arguments.load_in_4bit
    packed = {
        module.weight
        for name, module in without_adapters(network).named_modules()
        if quantized and isinstance(module, torch.nn.Linear) and not any(part in name for part in WHOLE_PARTS)
    }
    return sum(
        int(weight.numel() * size) if weight in packed else weight.numel() * weight.element_size()
        for weight in network.parameters()
    )


def optimizer_bytes(network: Any, optim: str, sharding: Sharding) -> int:
    """Adam's two moments in the type of the weights, in 8 bits, or with DeepSpeed in float32 beside the weights."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    count = sum(weight.numel() for weight in trained)
    if sharding.zero_stage:
        return sharding.share(ADAM_BYTES["deepspeed"] * count, from_stage=1)
    return ADAM_BYTES["8bit"] * count if "8bit" in optim else 2 * sum(weight.nbytes for weight in trained)


def held_bytes(network: Any, arguments: ModelConfig, optim: str, sharding: Sharding) -> dict[str, int]:
    """Bytes that a process holds all the time, by purpose."""
    all_weights = weight_bytes(network, arguments)
    held = {"weights": sharding.share(all_weights, from_stage=3)}
    if sharding.zero_stage == 3:
        width = without_adapters(network).get_output_embeddings().weight.element_size()
        held["gathered weights"] = min(GATHERED * width, all_weights)
    trained = sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)
    held["gradients"] = sharding.share(trained, from_stage=2)
    held["optimizer"] = optimizer_bytes(network, optim, sharding)
    return held


def as_trained(
    network: Any,
    *,
    arguments: ModelConfig,
    checkpointing: bool,
    train_vision: bool = False,
    train_projector: bool = False,
    **head: Any,
) -> Any:
    """The network as the trainers change it before they train it: adapters, checkpointing, layouts, fused head."""
    if not train_vision:
        freeze_vision(network, train_projector=train_projector)
    allow_layouts(network)
    add_fused_lm_head(network, **head)
    if arguments.use_peft:
        adapt_language(arguments)
        network = get_peft_model(network, cast(PeftConfig, get_peft_config(arguments)))
        if arguments.load_in_4bit:  # TRL turns the adapters of a quantized base to bfloat16
            for weight in filter(lambda weight: weight.requires_grad, network.parameters()):
                weight.data = weight.data.to(torch.bfloat16)
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.enable_input_require_grads()
    return network.train()


def cache_bytes(network: Any, num_tokens: int) -> int:
    """Bytes of the keys and values of `num_tokens` tokens."""
    text = network.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = without_adapters(network).get_output_embeddings().weight.element_size()
    return 2 * text.num_hidden_layers * text.num_key_value_heads * width * size * num_tokens


def feature_bytes(network: Any, num_tokens: int) -> int:
    """Features of images of so many tokens in all, those that deep layers read included."""
    config = without_adapters(network).config
    levels = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
    size = without_adapters(network).get_output_embeddings().weight.element_size()
    return levels * config.get_text_config().hidden_size * size * num_tokens


def vision_bytes(network: Any, num_tokens: int) -> int:
    """Bytes that a frozen vision tower holds at once while it encodes images of `num_tokens` tokens.

    That is the widest place of a block: residual, normed input, and either queries, keys, values and output or the
    inner layer of the MLP and its gate.
    """
    vision = without_adapters(network).config.vision_config
    merge = getattr(vision, "spatial_merge_size", 2)
    width = 2 * vision.hidden_size + max(4 * vision.hidden_size, 2 * vision.intermediate_size)
    size = without_adapters(network).get_output_embeddings().weight.element_size()
    return num_tokens * merge**2 * width * size


def prefill_bytes(network: Any, num_tokens: int) -> int:
    """Bytes that the language tower holds while it reads tokens: residual, normed input, inside of the MLP."""
    text = network.config.get_text_config()
    size = without_adapters(network).get_output_embeddings().weight.element_size()
    return num_tokens * (2 * text.hidden_size + 3 * text.intermediate_size) * size


def rollout_bytes(network: Any, *, num_prompts: int, num_rollouts: int, prompt_tokens: int, episode_tokens: int) -> int:
    """Bytes that rollouts with kept caches take beside the weights.

    A turn goes on from a copy of its caches; prompts are read, images included, before there are any to copy.
    """
    prompts = num_prompts * prompt_tokens
    caches = cache_bytes(network, prompts + num_rollouts * episode_tokens)
    return 2 * caches + vision_bytes(network, prompts) + prefill_bytes(network, prompts)


def outline(network: Any, dtype: torch.dtype, *, num_layers: int | None = None) -> Any:
    """A model like `network`, without adapters, whose tensors hold nothing; `num_layers` in the language tower."""
    config = copy.deepcopy(without_adapters(network).config)
    if num_layers is not None:
        text = config.get_text_config()
        text.num_hidden_layers = num_layers
        if getattr(text, "layer_types", None):
            text.layer_types = (text.layer_types * num_layers)[:num_layers]
    with FakeTensorMode():
        return type(without_adapters(network))._from_config(config, dtype=dtype)


def device_gib() -> float | None:
    """Memory of this machine's accelerator in GiB; None without an accelerator."""
    with suppress(RuntimeError, AssertionError):
        return torch.cuda.mem_get_info()[1] / GIB
    return None
