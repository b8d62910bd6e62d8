"""MIMIC on the tiny model, offline: `make papers-mimic` calls it.

Items over drawn scenes; the data-centric tuning, LoRA, masked LoRA, both together, and GRPO, each against the base on
held-out items and on a sweep over distractors; where visual tokens look, and what fewer are worth. Each step is the
published command; what is there already is not made again. Other seeds (`python -m evaluation.mimic_story --seed 1`)
train on the items of the first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

from evaluation.compare import compare, table, write
from evaluation.discover import ATTENTION, POOLING
from evaluation.tiny_story import LAUNCH, evaluate, fovea, run, side_by_side, train
from fovea.commands import plain_parser

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


def teach(folder: Path, name: str, seed: int) -> None:
    """Trains a tuning, or GRPO, and judges it."""
    is_behind = name == "rl" or name.startswith("both")
    start = ("--model_name_or_path", str(folder / "data_centric")) if is_behind else ()
    here = ("--output_dir", str(folder / name), "--seed", str(seed), *start)
    if name == "rl":
        train(folder / name, *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml", *here)
    else:
        recipe = f"{RECIPES}/tiny_{name}_sft.yaml"
        train(folder / name, sys.executable, "sft/train_sft.py", "--config", recipe, *here)
    judge(folder, name)


def judge(folder: Path, name: str) -> None:
    """Evaluates a tuning, or the base, on held-out items and on the sweep."""
    model, bare = (BASE, ("--prompt", "direct")) if name == "base" else (folder / name, ())
    evaluate(model, folder / name / "evaluation", *bare, config=EVALUATION)
    swept = ("--dataset_name", str(FOLDER / "sweep"))
    evaluate(model, folder / name / "evaluation_sweep", *swept, *bare, config=EVALUATION)


def analyse(folder: Path, name: str) -> None:
    """Measures where a tuning's visual tokens look, and what fewer are worth."""
    for what, written, count in (("attention", ATTENTION, "50"), ("pooling", POOLING, "200")):
        output = folder / name / what
        if not (output / written).exists():
            given = ("--config", EVALUATION, "--dataset_name", str(FOLDER / "test"), "--output_dir", str(output))
            run("fovea", "analyse", what, str(folder / name), *given, "--max_tasks", count)


def tell(folder: Path, seed: int) -> None:
    """Does what is not there yet, two jobs side by side."""
    tuned = Event()

    def behind_data() -> None:
        try:
            teach(folder, "data_centric", seed)
        finally:
            tuned.set()  # the other job then finds no checkpoint, and stops too
        for name in ("both", "rl"):
            teach(folder, name, seed)
        analyse(folder, "data_centric")

    def beside() -> None:
        judge(folder, "base")
        for name in ("lora", "masked"):
            teach(folder, name, seed)
        tuned.wait()
        teach(folder, "both_unmasked", seed)
        analyse(folder, "masked")

    side_by_side(behind_data, beside)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    seed = parser.parse_args().seed
    folder = FOLDER if seed == 0 else FOLDER / f"seed_{seed}"
    for name, options in ITEMS.items():
        if not (FOLDER / name / "manifest.json").exists():
            fovea("tasks", "mimic", "--output_dir", str(FOLDER / name), *DRAWN, *options)
    if not (FOLDER / "traces" / "traces.jsonl").exists():
        run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml")
    tell(folder, seed)
    names = ("base", *TUNINGS, "rl")
    comparison = compare(*(folder / name / "evaluation" for name in names))
    write(comparison, folder / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {folder / 'comparison.json'}")
    fovea("report", *(str(folder / name) for name in names), "--output", str(folder / "report.html"))


if __name__ == "__main__":
    main()
