"""The command itself, and that every shipped recipe passes it."""

import copy
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from trl import ModelConfig

from fovea import doctor, memory
from fovea.boxes import Box, Frame
from fovea.doctor import training_of
from fovea.images import PixelLimits, cut, fit
from fovea.kernels.packing import Row, pack
from fovea.memory import Sharding
from fovea.models.loading import freeze_vision
from fovea.models.random_models import random_model
from rl.doctor import _rewards
from tests.training import trace_record

ROOT = Path(__file__).parent.parent
RECIPES = [
    "tiny_grpo.yaml",
    "qwen2_5_vl_7b_grpo.yaml",
    "qwen3_vl_4b_grpo.yaml",
    "qwen3_vl_8b_grpo.yaml",
    "qwen3_vl_8b_grpo.yaml hardware/1x24gb.yaml --gpu_memory_gib 24",
    "qwen3_vl_8b_grpo.yaml hardware/1x80gb.yaml --gpu_memory_gib 80",
    "qwen3_vl_8b_grpo.yaml hardware/8x80gb.yaml --gpu_memory_gib 80 --accelerate_config configs/accelerate/zero3.yaml",
    "qwen3_vl_8b_grpo.yaml rewards/mini_o3.yaml",
]


@pytest.mark.parametrize(
    ("words", "training"),
    [
        ([], "grpo"),
        (["--config", "tiny_grpo.yaml"], "grpo"),
        (["--config", "tiny_sft.yaml"], "sft"),
        (["--config", "qwen3_vl_8b_sft.yaml", "--gpu_memory_gib", "80"], "sft"),
        (["--num_generations", "4"], "grpo"),
        (["--max_traces", "60"], "sft"),
        (["--config=tiny_sft.yaml"], "sft"),
    ],
)
def test_the_options_tell_the_training(words, training):
    assert training_of(words) == training


def run(tmp_path, *words):
    command = [sys.executable, "-m", "fovea.doctor", *words, "--json", str(tmp_path / "found.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text()) if (tmp_path / "found.json").exists() else []
    return result, {finding["check"]: finding for finding in sorted(found, key=lambda f: f["verdict"] == "FAIL")}


@pytest.mark.parametrize("path", (ROOT / "configs/rewards").iterdir(), ids=lambda path: path.stem)
def test_shipped_rewards_tell_episodes_apart(path):
    preset = yaml.safe_load(path.read_text())
    examination = doctor.Examination()
    examination.check("rewards", _rewards, preset["reward_funcs"], preset["reward_weights"])
    assert not examination.has_failed


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_pass_offline(recipe, tmp_path):
    for number in range(64):
        image = Image.new("RGB", (1600, 1200), (3 * number, 90, 90))
        image.save(tmp_path / f"{number}.png")
    rows = [{"images": [f"{number}.png"], "question": "How dark?", "answer": number} for number in range(64)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result, found = run(tmp_path, *recipe.split(), "--dataset_name", str(tmp_path / "tasks.jsonl"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "GiB" in found["memory"]["message"]


def write_zoom_traces(folder: Path, *, factor: int, padding: float) -> None:
    """Twenty zooms into one box (per-mille) of different pictures, crops as a recipe of that family shows them."""
    folder.mkdir()
    box = Box(0.25, 0.25, 0.5, 0.5, Frame.UNIT).enlarged(padding)
    lines = []
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, size=(12, 16, 3), dtype=np.uint8)
        view = Image.fromarray(pixels).resize((1344, 1008), Image.Resampling.BICUBIC)
        view.save(folder / f"{number}.png")
        fit(cut(view, box), PixelLimits(262_144, 1_003_520, factor)).save(folder / f"{number}c.png")
        paths = [folder / f"{number}.png", folder / f"{number}c.png"]
        lines.append(json.dumps(trace_record([250, 250, 500, 500], paths)))
    (folder / "traces.jsonl").write_text("\n".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiny_sft.yaml", "qwen3_vl_8b_sft.yaml --gpu_memory_gib 80",
                                    "qwen2_5_vl_7b_sft.yaml --gpu_memory_gib 80 --box_frame per_mille"])  # fmt: skip
def test_shipped_cold_starts_pass_offline(recipe, tmp_path):
    if recipe.startswith("tiny"):
        subprocess.run(["fovea", "traces", "--output_dir", str(tmp_path / "traces"), "--num_traces", "20"], check=True)
    else:
        is_25 = recipe.startswith("qwen2_5")
        write_zoom_traces(tmp_path / "traces", factor=28 if is_25 else 32, padding=1.5 if is_25 else 1.0)
    result, found = run(tmp_path, *recipe.split(), "--dataset_name", str(tmp_path / "traces"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "GiB" in found["memory"]["message"] and "20 traces" in found["traces"]["message"]


@pytest.mark.slow
def test_what_fails_is_in_the_exit_status(tmp_path):
    result, found = run(tmp_path, "tiny_grpo.yaml", "--dataset_name", str(tmp_path / "none.jsonl"))
    assert result.returncode == 1 and found["tasks"]["verdict"] == "FAIL" and "no data at" in found["tasks"]["message"]
    result, _ = run(tmp_path, "tiny_grpo.yaml", "--learning_rat", "1")
    assert result.returncode == 1 and "did you mean 'learning_rate'" in result.stdout


def many_layers(number):
    network = random_model("qwen3_vl-narrow").network
    config = copy.deepcopy(network.config)
    config.text_config.num_hidden_layers = number
    return type(network)._from_config(config)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_of_the_loss_is_that_of_a_real_one(checkpointing):
    """What is alive at most, drawn out from two and four fake layers, against that of six real ones."""
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
