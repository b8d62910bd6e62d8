"""MIMIC on the tiny model, offline: `make papers-mimic` calls it.

Items over drawn scenes; the data-centric tuning, LoRA, masked LoRA, both together, and GRPO, each against the base on
held-out items and on a sweep over distractors; where visual tokens look, and what fewer are worth. Each step is the
published command; what is there already is not made again. Other seeds (`python -m evaluation.mimic_story --seed 1`)
train on the items of the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.compare import compare, table, write
from evaluation.discover import ATTENTION, POOLING
from evaluation.tiny_story import LAUNCH, evaluate, fovea, run, train

FOLDER = Path("runs/mimic/tiny")
RECIPES = "papers/mimic"
EVALUATION = f"{RECIPES}/tiny_eval.yaml"
BASE = "tiny"
TUNINGS = ("data_centric", "lora", "masked", "both", "both_unmasked")
ITEMS = {
    "train": ("--num_tasks", "300", "--seed", "0"),
    "rl_train": ("--num_tasks", "200", "--seed", "2"),
    "test": ("--num_tasks", "150", "--seed", "1"),
    "sweep": ("--num_tasks", "40", "--seed", "3", "--sweep", "distractors=3,5,7,11"),
}
"""Items of each kind; scenes of their own for each set."""
DRAWN = ("--num_scenes", "1000", "--view_px", "128")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    seed = parser.parse_args().seed
    folder = FOLDER if seed == 0 else FOLDER / f"seed_{seed}"
    for name, options in ITEMS.items():
        if not (FOLDER / name / "manifest.json").exists():
            fovea("tasks", "mimic", "--output_dir", str(FOLDER / name), *DRAWN, *options)
    if not (FOLDER / "traces" / "traces.jsonl").exists():
        run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml")
    for name in TUNINGS:
        start = ("--model_name_or_path", str(folder / "data_centric")) if name.startswith("both") else ()
        here = ("--output_dir", str(folder / name), "--seed", str(seed), *start)
        train(folder / name, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/tiny_{name}_sft.yaml", *here)
    start = ("--model_name_or_path", str(folder / "data_centric"))
    here = ("--output_dir", str(folder / "rl"), "--seed", str(seed), *start)
    train(folder / "rl", *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml", *here)
    names = ("base", *TUNINGS, "rl")
    for name in names:
        model, bare = (BASE, ("--prompt", "direct")) if name == "base" else (folder / name, ())
        evaluate(model, folder / name / "evaluation", *bare, config=EVALUATION)
        swept = ("--dataset_name", str(FOLDER / "sweep"))
        evaluate(model, folder / name / "evaluation_sweep", *swept, *bare, config=EVALUATION)
    for name in ("data_centric", "masked"):
        given = ("--config", EVALUATION, "--dataset_name", str(FOLDER / "test"))
        if not (folder / name / "attention" / ATTENTION).exists():
            output = str(folder / name / "attention")
            fovea("analyse", "attention", str(folder / name), *given, "--output_dir", output, "--max_tasks", "50")
        if not (folder / name / "pooling" / POOLING).exists():
            output = str(folder / name / "pooling")
            fovea("analyse", "pooling", str(folder / name), *given, "--output_dir", output, "--max_tasks", "200")
    comparison = compare(*(folder / name / "evaluation" for name in names))
    write(comparison, folder / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {folder / 'comparison.json'}")
    fovea("report", *(str(folder / name) for name in names), "--output", str(folder / "report.html"))


if __name__ == "__main__":
    main()
