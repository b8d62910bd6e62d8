"""The estimate of memory against what is alive in a real loss, and by hand."""

import copy
from functools import partial

import pytest
import torch
from trl import ModelConfig

from doctor import memory
from doctor.memory import Sharding
from fovea.kernels.packing import Row, pack
from fovea.models.loading import freeze_vision
from fovea.models.random_models import random_model


def many_layers(number):
    network = random_model("qwen3_vl-narrow").network
    config = copy.deepcopy(network.config)
    config.text_config.num_hidden_layers = number
    return type(network)._from_config(config)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_of_the_loss_is_that_of_a_real_one(checkpointing):
    """The peak extrapolated from two and four fake layers, against the peak of six real ones."""
    rows = [Row([1 + number // 4] * 40, [2] * 60, [], 0) for number in range(8)]
    prepare = partial(memory.as_trained, arguments=ModelConfig(), checkpointing=checkpointing)
    network = many_layers(6)
    trained = prepare(copy.deepcopy(network))
    expected = memory.alive_in_loss(trained, pack(trained, rows, image_token_id=-1))
    assert memory.loss_bytes(prepare, network, torch.float32, rows) == pytest.approx(expected, rel=0.02)


def test_what_is_held_by_hand():
    network = random_model("qwen3_vl-narrow", dtype=torch.bfloat16).network
    plain = ModelConfig()
    whole = sum(weight.numel() for weight in network.parameters())
    freeze_vision(network)
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)

    def held(stage, optim="adamw_torch_fused"):
        return memory.held_bytes(network, plain, optim, Sharding(4, stage))

    assert held(0) == {"weights": 2 * whole, "gradients": 2 * trained, "optimizer": 4 * trained}
    assert held(0, "adamw_bnb_8bit")["optimizer"] == 2 * trained
    assert held(1) == {"weights": 2 * whole, "gradients": 2 * trained, "optimizer": 3 * trained}
    assert held(2) == {"weights": 2 * whole, "gradients": trained // 2, "optimizer": 3 * trained}
    assert held(3) == {
        "weights": whole // 2, "gathered weights": 2 * whole, "gradients": trained // 2, "optimizer": 3 * trained,
    }  # fmt: skip


def test_quantized_layers_of_the_language_tower_count_their_bits():
    network = random_model("qwen3_vl-narrow", dtype=torch.bfloat16).network
    linear = sum(
        module.weight.numel()
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model" in name
    )
    sizes = [
        memory.weight_bytes(network, ModelConfig(**options))
        for options in ({}, {"load_in_8bit": True}, {"load_in_4bit": True})
    ]
    assert sizes[0] - sizes[1] == linear
    assert sizes[0] - sizes[2] == pytest.approx((2 - 4.5 / 8) * linear, rel=1e-3)


def test_keys_and_values_by_hand():
    network = random_model("qwen2_5_vl-7b", device="meta", dtype=torch.bfloat16).network
    assert memory.cache_bytes(network, 1) == 2 * 28 * 4 * 128 * 2
