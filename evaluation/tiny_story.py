"""The whole story on the tiny model, offline: base, SFT cold start, GRPO, comparison. `make run` calls it.

Each step is the published command; what is there already is not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

from evaluation.compare import compare, table

FOLDER = Path("runs/tiny")
EPISODES = ["--max_tokens_per_turn", "96", "--crop_min_pixels", "4096", "--crop_max_pixels", "5120"]


def run(*words: str) -> None:
    """Runs one command, shown as it would be typed."""
    print(f"\n$ {' '.join(words)}", flush=True)
    started = time.perf_counter()
    subprocess.run(words, check=True)
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def evaluate(model: str, name: str, *options: str) -> None:
    """Evaluates a checkpoint on the held-out scenes, unless that was finished before."""
    folder = FOLDER / name
    if not (folder / "summary.json").exists():
        run("fovea", "eval", model, "--output_dir", str(folder), *EPISODES, *options)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    sft, rl = FOLDER / "sft", FOLDER / "rl"
    evaluate("tiny", "base/evaluation")
    evaluate("tiny", "base/evaluation_direct", "--prompt", "direct")
    (FOLDER / "base" / "checkpoint.txt").write_text("tiny\n")
    if not (sft / "config.json").exists():
        run(sys.executable, "sft/train_sft.py")
    evaluate(str(sft), "sft/evaluation")
    if not (rl / "config.json").exists():
        run("accelerate", "launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--cpu", "rl/train_grpo.py")  # fmt: skip
    evaluate(str(rl), "rl/evaluation")
    evaluate(str(rl), "rl/evaluation_noise", "--crops", "noise")
    folders = {name: FOLDER / name / "evaluation" for name in ("base", "sft", "rl")}
    result = compare(folders["sft"], folders["rl"])
    result["pairs"] = {f"{a}-{b}": compare(folders[a], folders[b]) for a, b in combinations(folders, 2)}
    (FOLDER / "comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    (FOLDER / "comparison.md").write_text(table(result) + "\n")
    print(f"\n{table(result)}\n\nwritten to {FOLDER / 'comparison.json'}")


if __name__ == "__main__":
    main()
