"""Is anything lost when a training is killed? `python -m benchmarks.endurance --kills 20 --output_dir runs/endurance`.

The tiny SFT and GRPO are trained undisturbed, and then with `kill -9` at random moments followed by the same command,
in as many runs as it takes to kill each training so often. Every run must end with the weights of the undisturbed one,
and its logs must hold every step once.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from fovea.commands import plain_parser
from fovea.jsonl import read_jsonl
from fovea.runs.checkpoints import is_finished

SFT = ("sft/train_sft.py", "--max_traces", "60", "--num_train_epochs", "1", "--eval_strategy", "no",
       "--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1",
       "--per_device_train_batch_size", "4")  # fmt: skip
GRPO = ("rl/train_grpo.py", "--model_name_or_path", "tiny", "--max_tasks", "16", "--max_steps", "8",
        "--save_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4",
        "--steps_per_generation", "2")  # fmt: skip
TRAININGS = {"sft": SFT, "grpo": GRPO}


def train(words: tuple[str, ...], output_dir: Path, *, moments: list[float], log: Path) -> int:
    """Starts the same command until it has finished, killing it after each of `moments` seconds; how often it died."""
    command = [sys.executable, *words, "--output_dir", str(output_dir)]
    killed = 0
    while True:
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            try:
                status = process.wait(moments[killed] if killed < len(moments) else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
                continue
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}: see {log}")
        return killed


def difference(whole: Path, cut: Path) -> str:
    """The difference between the two runs in words; empty if there is none."""
    if not (is_finished(whole) and is_finished(cut)):
        return "one did not finish"
    if (whole / "model.safetensors").read_bytes() != (cut / "model.safetensors").read_bytes():
        return "the weights differ"
    steps = [[row["step"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row] for folder in (whole, cut)]
    return "" if steps[0] == steps[1] else f"the logs hold steps {steps[0]} and {steps[1]}"


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each training")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/endurance"))
    parser.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    lossy = 0
    for name in args.trainings:
        failures = 0
        folder = args.output_dir / name
        folder.mkdir(parents=True)
        started = time.monotonic()
        train(TRAININGS[name], folder / "whole", moments=[], log=folder / "whole.log")
        length = time.monotonic() - started
        killed = runs = 0
        while killed < args.kills:
            cut = folder / f"cut-{runs}"
            moments = [draw.uniform(0.3, 1.0) * length for _ in range(args.kills - killed)]
            killed += train(TRAININGS[name], cut, moments=moments, log=folder / f"{cut.name}.log")
            runs += 1
            if lost := difference(folder / "whole", cut):
                print(f"{name}: {lost} in {cut}", flush=True)
                failures += 1
        print(f"{name}: {length:.0f} s undisturbed; {killed} kills in {runs} runs, {failures} of which lost something")
        lossy += failures
    raise SystemExit(lossy > 0)


if __name__ == "__main__":
    main()
