"""The published commands, run as a user types them. Slow: each starts Python, some train."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
LAUNCH = [
    *("accelerate", "launch", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"),
]
REWARDS = """
def words(task, episode):
    return float(episode.num_tokens % 3)

def rank(task, episodes):
    return [float(place) for place in range(len(episodes))]

def length(completions, **columns):
    return [float(len(str(completion)) % 5) for completion in completions]

async def later(completions, **columns):
    return [float(len(str(completion)) % 7) for completion in completions]
"""


def run(*words, cwd=ROOT):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment, timeout=900)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.mark.parametrize("command", [["sft/train_sft.py"], ["rl/train_grpo.py"]])
def test_help_teaches(command):
    assert "--model_name_or_path" in run(sys.executable, *command, "--help")


def test_sft_then_grpo_then_evaluation_then_comparison(tmp_path):
    run("fovea", "traces", "--output_dir", str(tmp_path / "traces"), "--num_traces", "24")
    small = ["--max_steps", "2", "--logging_steps", "1"]
    run(
        *LAUNCH, "sft/train_sft.py", "--dataset_name", str(tmp_path / "traces"), "--output_dir", str(tmp_path / "sft"),
        "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", *small,
    )  # fmt: skip
    run("fovea", "tasks", "--output_dir", str(tmp_path / "tasks"), "--num_tasks", "8")
    (tmp_path / "mine.py").write_text(REWARDS)
    names = ("words", "rank", "length", "later")
    run(
        *LAUNCH, "rl/train_grpo.py", "--model_name_or_path", str(tmp_path / "sft"),
        "--dataset_name", str(tmp_path / "tasks"), "--output_dir", str(tmp_path / "rl"),
        "--reward_funcs", "accuracy", *(f"{tmp_path}/mine.py:{name}" for name in names),
        "--reward_weights", "0.9", *("0.1" for _ in names),
        "--per_device_train_batch_size", "4", "--num_generations", "2", *small,
    )  # fmt: skip
    logs = [json.loads(line) for line in (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert {f"rewards/{name}/mean" for name in names} <= logs[0].keys()
    assert (tmp_path / "rl" / "episodes.jsonl").read_text().count("\n") == 8
    phases = json.loads((tmp_path / "rl" / "ledger.json").read_text())["seconds"]
    assert phases.keys() >= {
        "decode images", "preprocess", "vision", "prefill", "decode", "environment", "rewards", "log-probs",
        "backward", "optimizer", "logging",
    }  # fmt: skip
    for name in ("sft", "rl"):
        run(
            "fovea", "eval", str(tmp_path / name), "--dataset_name", str(tmp_path / "tasks"),
            "--output_dir", str(tmp_path / f"eval_{name}"), "--max_tokens_per_turn", "32",
        )  # fmt: skip
    table = run("fovea", "compare", str(tmp_path / "eval_sft"), str(tmp_path / "eval_rl"))
    assert "| all | 8 |" in table


COUNT_GROUPS = """
import json, os, pathlib, sys
import rl.shared_loss, rl.train_grpo
from fovea.kernels.packing import group_rows

rows, pack = [], rl.shared_loss.pack

def counted(network, rollouts, **options):
    rows.append([len(group) for group in group_rows(rollouts)])
    return pack(network, rollouts, **options)

rl.shared_loss.pack = counted
rl.train_grpo.main()
pathlib.Path(__file__).with_name("groups" + os.environ["RANK"]).write_text(json.dumps(rows))
"""


@pytest.mark.parametrize(("budget", "row"), [((), [2, 2]), (("--max_packed_tokens", "600"), [2])])
def test_grpo_on_two_processes(tmp_path, budget, row):
    """Every row of the loss holds whole groups, on either process."""
    (tmp_path / "count.py").write_text(COUNT_GROUPS)
    run(
        "torchrun", "--nproc_per_node", "2", str(tmp_path / "count.py"), *budget,
        "--model_name_or_path", "tiny", "--output_dir", str(tmp_path),
        "--per_device_train_batch_size", "4", "--num_generations", "2", "--max_steps", "2", "--max_minutes", "60",
    )  # fmt: skip
    for rank in (0, 1):
        rows = json.loads((tmp_path / f"groups{rank}").read_text())
        assert all(found == row for found in rows) and sum(map(len, rows)) == 8  # two steps, policy and reference
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logs if "reward" in row] == [1, 2]
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 16


def test_two_processes_choose_tasks_together(tmp_path):
    """Tasks of even numbers have no signal: others take their places on either process, none is played twice a step."""
    (tmp_path / "odd.py").write_text(
        "def odd(task, episodes):\n"
        "    return [float(place * (int(task.id.rpartition('-')[2]) % 2)) for place in range(len(episodes))]\n"
    )
    run(
        "accelerate", "launch", "--config_file", "configs/accelerate/cpu.yaml",
        "rl/train_grpo.py", "--model_name_or_path", "tiny", "--max_tasks", "60",
        "--output_dir", str(tmp_path), "--reward_funcs", str(tmp_path / "odd.py:odd"), "--reward_weights", "1",
        "--dynamic_sampling", "6", "--task_selection", "difficulty", "--save_steps", "1", "--max_steps", "2",
        "--per_device_train_batch_size", "4", "--num_generations", "2",
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    groups = Counter((row["step"], row["task_id"], row["in_loss"]) for row in rows)
    assert set(groups.values()) == {2} and len({key[:2] for key in groups}) == len(groups)
    kept = [(step, int(task.rpartition("-")[2])) for step, task, in_loss in groups if in_loss]
    assert len(kept) == 8 and all(number % 2 for _, number in kept) and len(groups) > 8
    rates = json.loads((tmp_path / "checkpoint-2" / "task_history.json").read_text())["success_rates"]
    assert sum(rate is not None for rate in rates) == len({task for _, task, _ in groups})


def test_a_custom_environment_is_checked_from_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Plain:\n    def reset(self, *, question, **row):\n        return question\n"
    )
    assert "ok   has reset" in run("fovea", "check-env", f"{tmp_path}/mine.py:Plain")


def test_an_unknown_command_lists_those_there_are():
    result = subprocess.run([sys.executable, "-m", "fovea.cli", "evaluate"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode != 0 and "eval" in result.stderr
