"""Slices `story` and `long`: the tiny model's SFT and GRPO on this device, and GRPO until it stops learning."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.gpu.cases import Case, synchronized
from fovea.jsonl import read_jsonl
from fovea.runs.records import SUMMARY, read_summary

ROOT = Path(__file__).resolve().parent.parent.parent
RESERVE_SECONDS = 100
"""For the start of a training and the evaluation behind it."""


def cases(small: bool, folder: Path) -> list[Case]:
    return [
        Case(name, f"SFT, {steps} steps of GRPO", 60, partial(_story, folder, name, small, steps), is_elastic=True)
        for name, steps in (("story", 2 if small else 150), ("long", 4 if small else 1500))
    ]


def _story(folder: Path, name: str, small: bool, steps: int, seconds_left: float) -> dict[str, Any]:
    """Goes on with a training that an earlier call has left; when it is done, its checkpoints are evaluated."""
    started = synchronized()
    results: dict[str, Any] = {"sft": _cold_start(folder, small)}
    rl, every = folder / name, 50 if steps > 50 else 1
    minutes = (seconds_left - (synchronized() - started) - RESERVE_SECONDS) / 60
    if len(_curve(rl)) < steps and minutes > 0:
        options = {
            "model_name_or_path": folder / "sft",
            "output_dir": rl,
            "max_steps": steps,
            "save_steps": every,
            "save_total_limit": steps,
            "max_minutes": f"{minutes:.2f}",
            **({"per_device_train_batch_size": 16} if small else {}),
        }
        _run(folder, "rl/train_grpo.py", *(f"--{name}={value}" for name, value in options.items()))
    curve = _curve(rl)
    seconds = _step_seconds(rl)
    results |= {"curve": curve, "seconds_a_step": seconds, "unfinished": len(curve) < steps}
    text = f"SFT {results['sft']['seconds']:.0f} s, {_accuracy(results['sft'])}; {len(curve)} steps of GRPO"
    if curve:
        text += f", {seconds:.2f} s each; rollouts right, by tenths: " + " ".join(f"{x:.2f}" for x in _tenths(curve))
    if len(curve) == steps:
        at = [step for step in range(every, steps + 1, every) if step % (5 * every) == 0 or step == steps]
        results["checkpoints"] = {step: _evaluated(folder, rl / f"checkpoint-{step}", small) for step in at}
        text += "; held out after " + ", ".join(f"{step}: {_accuracy(r)}" for step, r in results["checkpoints"].items())
    return results | {"text": text}


def _cold_start(folder: Path, small: bool) -> dict[str, Any]:
    record = folder / "sft.json"
    if not record.exists():
        options = ("--max_traces", "40", "--num_train_epochs", "1") if small else ()
        seconds = _run(folder, "sft/train_sft.py", "--output_dir", str(folder / "sft"), *options)
        record.write_text(json.dumps({"seconds": seconds} | _evaluated(folder, folder / "sft", small)))
    return json.loads(record.read_text())


def _step_seconds(folder: Path) -> float:
    """Seconds of a step of GRPO, in the median."""
    steps = [row["step_time"] for row in read_jsonl(folder / "metrics.jsonl") if "step_time" in row]
    return statistics.median(steps) if steps else 0.0


def _evaluated(folder: Path, checkpoint: Path, small: bool) -> dict[str, Any]:
    """Greedy accuracy on the held-out scenes with its interval."""
    output = folder / "evaluations" / checkpoint.relative_to(folder)
    options = ("--max_tasks", "32") if small else ()
    if not (output / SUMMARY).exists():
        words = ("eval", str(checkpoint), "--config", "tiny_eval.yaml", "--output_dir", str(output), *options)
        _run(folder, "-m", "fovea.cli", *words)
    summary = read_summary(output)
    families = {name: part.accuracy for name, part in summary.families.items()}
    return {"accuracy": summary.accuracy, "interval": list(summary.interval), "n": summary.n, "families": families}


def _run(folder: Path, *words: str) -> float:
    """Runs a command of the clone and returns its seconds; what it prints goes to a log beside what it makes."""
    folder.mkdir(parents=True, exist_ok=True)
    started = synchronized()
    log = folder / "story.log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a") as file:
        result = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {''.join(log.read_text().splitlines(True)[-12:])}")
    return synchronized() - started


def _curve(folder: Path) -> list[dict[str, Any]]:
    """Step by step what the rollouts were worth."""
    return [
        {"step": row["step"], "accuracy": row["rewards/accuracy/mean"], "entropy": row.get("entropy")}
        for row in read_jsonl(folder / "metrics.jsonl")
        if "rewards/accuracy/mean" in row
    ]


def _tenths(curve: list[dict[str, Any]]) -> list[float]:
    size = -(-len(curve) // 10) or 1
    return [fmean(row["accuracy"] for row in curve[start : start + size]) for start in range(0, len(curve), size)]


def _accuracy(evaluation: dict[str, Any]) -> str:
    low, high = evaluation["interval"]
    return f"{evaluation['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
