"""Slices `story` and `long`: the tiny model's whole story on this device, and GRPO until it stops learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.gpu.cases import Case, synchronized
from fovea.checkpoints import is_finished
from fovea.runs import read_jsonl

ROOT = Path(__file__).resolve().parent.parent.parent
EVALUATION_SECONDS = 30


def cases(small: bool, folder: Path) -> list[Case]:
    steps, long = (2, 4) if small else (150, 1500)
    return [
        Case("story", f"SFT, {steps} steps of GRPO", 120 if small else 240, partial(_story, folder, small, steps)),
        Case("long", f"{long} steps of GRPO", 90, partial(_long, folder, small, long), is_elastic=True),
    ]


def _story(folder: Path, small: bool, steps: int, seconds_left: float) -> dict[str, Any]:
    results: dict[str, Any] = {"sft": _cold_start(folder, small)}
    seconds = _grpo(folder, "rl", small, steps)
    results["rl"] = {"seconds": seconds, "steps": steps} | _evaluated(folder, folder / "rl", small)
    results["curve"] = _curve(folder / "rl")
    sft, rl = results["sft"], results["rl"]
    results["text"] = (
        f"SFT {sft['seconds']:.0f} s, {_accuracy(sft)}; GRPO {seconds:.0f} s ({seconds / steps:.2f} s a step), "
        f"{_accuracy(rl)}"
    )
    return results


def _long(folder: Path, small: bool, steps: int, seconds_left: float) -> dict[str, Any]:
    """Goes on with a training that an earlier call has left; its checkpoints are evaluated when it is done."""
    _cold_start(folder, small)
    every = steps // 6 or 1
    minutes = (seconds_left - 2 * EVALUATION_SECONDS) / 60
    _grpo(
        folder,
        "long",
        small,
        steps,
        "--save_steps",
        str(every),
        "--save_total_limit",
        "6",
        "--max_minutes",
        f"{minutes:.2f}",
    )
    curve = _curve(folder / "long")
    done = curve[-1]["step"] if curve else 0
    results: dict[str, Any] = {"steps": done, "curve": curve, "unfinished": done < steps}
    text = f"{done} steps; rollouts right, by tenths: " + " ".join(f"{value:.2f}" for value in _tenths(curve))
    if done == steps:
        checkpoints = {step: folder / "long" / f"checkpoint-{step}" for step in range(every, steps + 1, every)}
        results["checkpoints"] = {
            step: _evaluated(folder, path, small) for step, path in checkpoints.items() if path.exists()
        }
        text += "; held out: " + ", ".join(f"{step} {_accuracy(r)}" for step, r in results["checkpoints"].items())
    return results | {"text": text}


def _cold_start(folder: Path, small: bool) -> dict[str, Any]:
    record = folder / "sft.json"
    if not record.exists():
        options = ("--max_traces", "40", "--num_train_epochs", "1") if small else ()
        seconds = _run(folder, "sft/train_sft.py", "--output_dir", str(folder / "sft"), *options)
        record.write_text(json.dumps({"seconds": seconds} | _evaluated(folder, folder / "sft", small)))
    return json.loads(record.read_text())


def _grpo(folder: Path, name: str, small: bool, steps: int, *options: str) -> float:
    """Seconds of the training, of which nothing is left to do if it is finished."""
    where = folder / name
    if not is_finished(where) or len(_curve(where)) < steps:
        source = ("--model_name_or_path", str(folder / "sft"), "--output_dir", str(where), "--max_steps", str(steps))
        batch = ("--per_device_train_batch_size", "16") if small else ()
        _run(folder, "rl/train_grpo.py", *source, *batch, *options)
    runtimes = [row["train_runtime"] for row in read_jsonl(where / "metrics.jsonl") if "train_runtime" in row]
    return float(sum(runtimes))


def _evaluated(folder: Path, checkpoint: Path, small: bool) -> dict[str, Any]:
    """Greedy accuracy on the held-out scenes with its interval."""
    output = folder / "evaluations" / checkpoint.relative_to(folder)
    options = ("--max_tasks", "32") if small else ()
    if not (output / "summary.json").exists():
        words = ("eval", str(checkpoint), "--config", "tiny_eval.yaml", "--output_dir", str(output), *options)
        _run(folder, "-m", "fovea.cli", *words)
    summary = json.loads((output / "summary.json").read_text())
    return {name: summary[name] for name in ("accuracy", "interval", "n")} | {
        "families": {name: part["accuracy"] for name, part in summary["families"].items()}
    }


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


def _accuracy(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
