"""The command itself, and that every shipped recipe passes it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from doctor.command import training_of
from doctor.findings import Examination
from doctor.rewards import blind_rewards
from fovea.boxes import Box, Frame
from fovea.images import PixelLimits, cut, fit
from tests.training import trace_record

ROOT = Path(__file__).parents[2]
ON_8_CARDS = "hardware/8x80gb.yaml --gpu_memory_gib 80 --accelerate_config configs/accelerate/zero3.yaml"
RECIPES = [
    "tiny_grpo.yaml",
    "qwen2_5_vl_7b_grpo.yaml",
    "qwen3_vl_4b_grpo.yaml",
    "qwen3_vl_8b_grpo.yaml",
    "qwen2_5_vl_7b_grpo.yaml hardware/1x24gb.yaml --gpu_memory_gib 24",
    "qwen2_5_vl_7b_grpo.yaml hardware/1x80gb.yaml --gpu_memory_gib 80",
    f"qwen2_5_vl_7b_grpo.yaml {ON_8_CARDS}",
    "qwen3_vl_8b_grpo.yaml hardware/1x24gb.yaml --gpu_memory_gib 24",
    "qwen3_vl_8b_grpo.yaml hardware/1x80gb.yaml --gpu_memory_gib 80",
    f"qwen3_vl_8b_grpo.yaml {ON_8_CARDS}",
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
    command = [sys.executable, "-m", "doctor.command", *words, "--json", str(tmp_path / "found.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text()) if (tmp_path / "found.json").exists() else []
    return result, {finding["check"]: finding for finding in sorted(found, key=lambda f: f["verdict"] == "FAIL")}


@pytest.mark.parametrize("path", (ROOT / "configs/rewards").iterdir(), ids=lambda path: path.stem)
def test_shipped_rewards_tell_episodes_apart(path):
    preset = yaml.safe_load(path.read_text())
    examination = Examination()
    examination.check("rewards", blind_rewards, preset["reward_funcs"], preset["reward_weights"])
    assert not examination.has_failed


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_pass_offline(recipe, tmp_path):
    for number in range(8):
        image = Image.new("RGB", (1600, 1200), (24 * number, 90, 90))
        image.save(tmp_path / f"{number}.png")
    rows = [{"images": [f"{number % 8}.png"], "question": "How dark?", "answer": number} for number in range(64)]
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
