"""The command itself, and that every shipped recipe passes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from fovea import memory
from fovea.doctor import training_of
from fovea.packing import Row
from fovea.random_models import random_model
from fovea.shared_prefix import allow_layouts

ROOT = Path(__file__).parent.parent
RECIPES = [
    "tiny_grpo.yaml",
    "qwen2_5_vl_7b_grpo.yaml",
    "qwen3_vl_4b_grpo.yaml",
    "qwen3_vl_8b_grpo.yaml",
    "qwen3_vl_8b_grpo.yaml hardware/1x24gb.yaml --gpu_memory_gib 24",
    "qwen3_vl_8b_grpo.yaml hardware/1x80gb.yaml --gpu_memory_gib 80",
    "qwen3_vl_8b_grpo.yaml hardware/8x80gb.yaml --gpu_memory_gib 80 --accelerate_config configs/accelerate/zero3.yaml",
    *(f"qwen3_vl_8b_grpo.yaml {path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs/rewards").iterdir()),
]


@pytest.mark.parametrize(
    ("words", "training"),
    [
        ([], "grpo"),
        (["--config", "tiny_grpo.yaml"], "grpo"),
        (["--config", "tiny_sft.yaml"], "sft"),
        (["--config", "qwen3_vl_8b_sft.yaml", "--gpu_memory_gib", "80"], "sft"),
        (["--num_generations", "4"], "grpo"),
    ],
)
def test_the_options_tell_the_training(words, training):
    assert training_of(words) == training


def run(tmp_path, *words):
    command = [sys.executable, "-m", "fovea.doctor", *words, "--json", str(tmp_path / "found.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text()) if (tmp_path / "found.json").exists() else []
    return result, {finding["check"]: finding for finding in found}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_pass_offline(recipe, tmp_path):
    result, found = run(tmp_path, *recipe.split(), "--dataset_name", "synthesis.shapes:validation_tasks")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "GiB" in found["memory"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiny_sft.yaml", "qwen3_vl_8b_sft.yaml --gpu_memory_gib 80",
                                    "qwen2_5_vl_7b_sft.yaml --gpu_memory_gib 80 --box_frame per_mille"])  # fmt: skip
def test_shipped_cold_starts_pass_offline(recipe, tmp_path):
    subprocess.run(["fovea", "traces", "--output_dir", str(tmp_path / "traces"), "--num_traces", "20"], check=True)
    result, found = run(tmp_path, *recipe.split(), "--dataset_name", str(tmp_path / "traces"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "GiB" in found["memory"]["message"] and "20 traces" in found["traces"]["message"]


@pytest.mark.slow
def test_what_fails_is_in_the_exit_status(tmp_path):
    result, found = run(tmp_path, "tiny_grpo.yaml", "--dataset_name", str(tmp_path / "none.jsonl"))
    assert result.returncode == 1 and found["tasks"]["verdict"] == "FAIL" and "no tasks at" in found["tasks"]["message"]
    result, _ = run(tmp_path, "tiny_grpo.yaml", "--learning_rat", "1")
    assert result.returncode == 1 and "did you mean 'learning_rate'" in result.stdout


def test_memory_of_the_loss_is_that_of_a_real_one():
    """What is alive at most, counted on fake tensors, against the same count on real ones."""
    network = random_model("qwen3_vl-narrow").network
    rows = [Row([1 + number // 4] * 40, [2] * 60, [], 0) for number in range(8)]

    def prepare(given):
        allow_layouts(given)
        add_fused_lm_head(given)
        return given.train()

    expected = memory.loss_bytes(prepare, network, torch.float32, rows)
    real = prepare(network)
    found = memory._alive_in_loss(real, rows)
    assert found == pytest.approx(expected, rel=0.02)
