"""DeepSpeed for real on two processes: what one process trains, checkpoints, resume and export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from environments.arguments import EpisodeArguments
from fovea.jsonl import read_jsonl
from fovea.models.loading import LANGUAGE_LINEARS, load_model
from fovea.models.names import resolve_path
from synthesis.oracle_traces import TraceArguments, write_oracle_traces
from tests.training import unlaunched

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.engines
STAGES = (2, 3)
ON_GLOO = ("--ddp_backend", "gloo")
"""Two processes on CPU; `use_cpu` would mean "no DeepSpeed" to Accelerate."""


def start(*words: str, stage: int | None = None, num_processes: int = 2) -> subprocess.Popen:
    """`accelerate launch` of a script, its output in pipes."""
    launch = ["accelerate", "launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_processes", str(num_processes)]
    launch += ["--config_file", f"configs/accelerate/zero{stage}.yaml"] if stage else ["--cpu"]
    environment = unlaunched() | {
        "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    words = (*launch, "tests/engines/plain_gloo.py", *words)
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run(*words: str, timeout_s: float = 900, **options) -> str:
    process = start(*words, **options)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        for child in (*psutil.Process(process.pid).children(recursive=True), process):
            child.kill()
        raise
    assert process.returncode == 0, output[-9000:]
    return output


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


REPLAYS = {("--steps", "1"): 1e-4, ("--steps", "20"): 2e-2, ("--steps", "1", "--masked"): 1e-4}
"""Trainings, and how far their weights may differ, in shares of their change."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for words in REPLAYS:
        run("tests/engines/replay.py", str(folder / " ".join(words)), *words, "--batch", "8", num_processes=1)
    return folder


@pytest.mark.parametrize(("stage", "words"), [(2, ("--steps", "1")), *((3, words) for words in REPLAYS)], ids=str)
def test_two_processes_train_as_one_does(alone, tmp_path, stage, words):
    """Processes with and without images, zooms and third turns; every weight after one step and after twenty."""
    tolerance = REPLAYS[words]
    run("tests/engines/replay.py", str(tmp_path), *words, "--batch", "4", stage=stage)
    start, expected, found = weights_of(resolve_path("tiny")), weights_of(alone / " ".join(words)), weights_of(tmp_path)
    for name, weight in expected.items():
        change = (weight - start[name]).norm()
        assert (found[name] - weight).norm() <= tolerance * change + 1e-6, name


@pytest.mark.parametrize("stage", STAGES)
def test_sft_checkpoints_goes_on_and_exports(tmp_path, stage):
    traces = TraceArguments(output_dir=str(tmp_path / "traces"), num_traces=24, seed=1, noise=0.1, looseness=[1.0, 2.0])
    write_oracle_traces(traces, EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64))
    words = (
        "sft/train_sft.py", "--dataset_name", str(tmp_path / "traces"), "--output_dir", str(tmp_path / "sft"),
        *ON_GLOO, "--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "steps",
        "--save_steps", "1", "--per_device_train_batch_size", "2", "--logging_steps", "1", "--max_steps",
    )  # fmt: skip
    assert "starting anew" in run(*words, "2", stage=stage)
    assert "going on from" in run(*words, "3", stage=stage)
    assert [row["step"] for row in read_jsonl(tmp_path / "sft" / "metrics.jsonl") if "loss" in row] == [1, 2, 3]
    before, after = load_model("tiny").network.state_dict(), load_model(str(tmp_path / "sft")).network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("stage", "options"),
    [(2, ()), (3, ("--use_peft", "true", "--lora_r", "4", "--max_packed_tokens", "400"))],
    ids=["full", "lora in parts"],
)
def test_grpo_checkpoints_goes_on_and_exports(tmp_path, stage, options):
    words = (
        "rl/train_grpo.py", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path),
        *ON_GLOO, "--per_device_train_batch_size", "4", "--num_generations", "2", "--save_steps", "1",
        "--beta", "0.01", *options, "--max_tasks", "16", "--max_steps",
    )  # fmt: skip
    assert "starting anew" in run(*words, "2", stage=stage)
    assert "going on from" in run(*words, "3", stage=stage)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "reward" in row] == [1, 2, 3]
    load_model(str(tmp_path))


def test_all_weights_are_trained_from_an_adapter(tmp_path):
    """It is merged where processes hold parts of the weights too; at a rate of nothing the merged model comes out."""
    network = load_model("tiny").network
    config = LoraConfig(r=2, lora_alpha=4, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    adapted = get_peft_model(network, config)
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(tmp_path / "adapter")
    run(
        "rl/train_grpo.py", "--model_name_or_path", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "rl"),
        *ON_GLOO, "--per_device_train_batch_size", "4", "--num_generations", "2", "--max_tasks", "16",
        "--cold_start_config", "", "--learning_rate", "1e-12", "--beta", "0.01", "--max_steps", "1", stage=3,
    )  # fmt: skip
    merged, plain = (load_model(name).network.state_dict() for name in (str(tmp_path / "adapter"), "tiny"))
    for name, weight in load_model(str(tmp_path / "rl")).network.state_dict().items():
        torch.testing.assert_close(weight, merged[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(merged[name], plain[name], atol=1e-3) for name in plain)


def test_processes_may_generate_differently_often(tmp_path):
    """Under ZeRO-3 `generate` would otherwise wait for the other processes at every token."""
    run(
        "tests/engines/uneven.py", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path), *ON_GLOO,
        "--per_device_train_batch_size", "4", "--num_generations", "2", "--shared_prefix", "false",
        "--max_tasks", "16", "--max_steps", "1", stage=3, timeout_s=300,
    )  # fmt: skip
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "reward" in row] == [1]


def test_processes_choose_groups_with_a_signal_together(tmp_path):
    """Only tasks of odd numbers have a signal; what is known of tasks goes on with the training."""
    (tmp_path / "odd.py").write_text(
        "def odd(task, episodes):\n"
        "    return [float(place * (int(task.id.rpartition('-')[2]) % 2)) for place in range(len(episodes))]\n"
    )
    words = (
        "rl/train_grpo.py", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path / "rl"), *ON_GLOO,
        "--per_device_train_batch_size", "4", "--num_generations", "2", "--max_tasks", "60", "--save_steps", "1",
        "--reward_funcs", str(tmp_path / "odd.py:odd"), "--reward_weights", "1",
        "--dynamic_sampling", "6", "--task_selection", "difficulty", "--max_steps",
    )  # fmt: skip
    assert "starting anew" in run(*words, "1", stage=3)
    assert "going on from" in run(*words, "2", stage=3)
    rows = read_jsonl(tmp_path / "rl" / "episodes.jsonl")
    groups = Counter((row["step"], row["task_id"], row["in_loss"]) for row in rows)
    kept = [(step, int(task.rpartition("-")[2])) for step, task, in_loss in groups if in_loss]
    assert set(groups.values()) == {2} and sorted(step for step, _ in kept) == [1] * 4 + [2] * 4
    assert all(number % 2 for _, number in kept)
    rates = json.loads((tmp_path / "rl" / "checkpoint-2" / "task_history.json").read_text())["success_rates"]
    assert sum(rate is not None for rate in rates) == len({task for _, task, _ in groups})


def test_when_a_process_dies_all_end_and_the_same_command_goes_on(tmp_path):
    words = (
        "rl/train_grpo.py", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path),
        *ON_GLOO, "--per_device_train_batch_size", "4", "--num_generations", "2", "--save_steps", "1",
        "--max_tasks", "16", "--max_steps", "4",
    )  # fmt: skip
    process = start(*words, stage=2)
    while not list(tmp_path.glob("checkpoint-*/whole")):
        assert process.poll() is None, process.communicate()[0][-9000:]
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    next(worker for worker in workers if worker.environ().get("RANK") == "1").kill()
    process.communicate(timeout=120)
    assert process.returncode != 0 and not psutil.wait_procs(workers, timeout=30)[1]
    assert "going on from" in run(*words, stage=2)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "reward" in row] == [1, 2, 3, 4]
