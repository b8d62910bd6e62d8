"""MIMIC on the tiny model, offline: `make papers-mimic` calls it.

Items over drawn scenes; the data-centric tuning, LoRA, masked LoRA, both together, and GRPO, each against the base on
held-out items, some of them on a sweep over distractors; where visual tokens look, and what fewer are worth. Each step
is the published command; what is there already is not made again. With `--full` it is all that docs/papers/mimic.md
has tables of: longer GRPO, both tunings without the mask, all sweeps. Other seeds (`python -m evaluation.mimic_story
--seed 1`) train on the items of the first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from evaluation.compare import compare, table, write
from evaluation.discover import ATTENTION, POOLING
from evaluation.tiny_story import LAUNCH, evaluate, fovea, run, side_by_side, told_in, train
from fovea.commands import from_zero, plain_parser

FOLDER = Path("runs/mimic/tiny")
RECIPES = "papers/mimic"
EVALUATION = f"{RECIPES}/tiny_eval.yaml"
BASE = "tiny"
TUNINGS = ("data_centric", "lora", "masked", "both", "both_unmasked")
FULL_ALONE = ("both_unmasked",)
"""Only with `--full`."""
SWEPT = ("data_centric", "masked", "both")
"""On the sweep without `--full` too."""
ITEMS = {
    "train": ("--num_tasks", "300", "--seed", "0"),
    "rl_train": ("--num_tasks", "200", "--seed", "2"),
    "test": ("--num_tasks", "150", "--seed", "1"),
    "sweep": ("--num_tasks", "40", "--seed", "3", "--sweep", "distractors=3,5,7,11"),
}
"""Items of each kind; scenes of their own for each set."""
DRAWN = ("--num_scenes", "1000", "--view_px", "128")


@dataclass(frozen=True)
class Story:
    """The folder of a story, its seed, and True for its full length."""

    folder: Path
    seed: int
    is_full: bool

    @property
    def names(self) -> list[str]:
        """The checkpoints of it, the base included."""
        return [name for name in ("base", *TUNINGS, "rl") if self.is_full or name not in FULL_ALONE]


def teach(story: Story, name: str) -> None:
    """Trains a tuning, or GRPO, and judges it."""
    folder = story.folder
    is_behind = name == "rl" or name.startswith("both")
    start = ("--model_name_or_path", str(folder / "data_centric")) if is_behind else ()
    here = ("--output_dir", str(folder / name), "--seed", str(story.seed), *start)
    if name == "rl":
        here = here if story.is_full else (*here, "--max_steps", "60")
        train(folder / name, *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml", *here)
    else:
        recipe = f"{RECIPES}/tiny_{name}_sft.yaml"
        train(folder / name, sys.executable, "sft/train_sft.py", "--config", recipe, *here)
    judge(story, name)


def judge(story: Story, name: str) -> None:
    """Evaluates a tuning, or the base, on held-out items and on the sweep."""
    folder = story.folder
    model, bare = (BASE, ("--prompt", "direct")) if name == "base" else (folder / name, ())
    evaluate(model, folder / name / "evaluation", *bare, config=EVALUATION)
    if not story.is_full and name not in SWEPT:
        return
    swept = ("--dataset_name", str(FOLDER / "sweep"))
    evaluate(model, folder / name / "evaluation_sweep", *swept, *bare, config=EVALUATION)


def analyse(story: Story, name: str) -> None:
    """Measures where a tuning's visual tokens look, and what fewer are worth."""
    for what, written, count in (("attention", ATTENTION, 50), ("pooling", POOLING, 200 if story.is_full else 100)):
        output = story.folder / name / what
        if not (output / written).exists():
            given = ("--config", EVALUATION, "--dataset_name", str(FOLDER / "test"), "--output_dir", str(output))
            run("fovea", "analyse", what, str(story.folder / name), *given, "--max_tasks", str(count))


def tell(story: Story) -> None:
    """Does what is not there yet, two jobs side by side."""
    tuned = Event()

    def behind_data() -> None:
        try:
            teach(story, "data_centric")
        finally:
            tuned.set()  # the other job then finds no checkpoint, and stops too
        for name in ("both", "rl"):
            teach(story, name)

    def beside() -> None:
        judge(story, "base")
        for name in ("lora", "masked"):
            teach(story, name)
        tuned.wait()
        if story.is_full:
            teach(story, "both_unmasked")
        for name in ("data_centric", "masked"):
            analyse(story, name)

    side_by_side(behind_data, beside)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seed", type=from_zero, default=0, help="of the trainings")
    parser.add_argument("--full", action="store_true", help="all tunings, sweeps and steps of docs/papers/mimic.md")
    asked = parser.parse_args()
    folder = told_in(FOLDER, seed=asked.seed, is_full=asked.full)
    story = Story(folder, asked.seed, asked.full)
    for name, options in ITEMS.items():
        if not (FOLDER / name / "manifest.json").exists():
            fovea("tasks", "mimic", "--output_dir", str(FOLDER / name), *DRAWN, *options)
    if not (FOLDER / "traces" / "traces.jsonl").exists():
        run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml")
    tell(story)
    comparison = compare(*(folder / name / "evaluation" for name in story.names))
    write(comparison, folder / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {folder / 'comparison.json'}")
    fovea("report", *(str(folder / name) for name in story.names), "--output", str(folder / "report.html"))


if __name__ == "__main__":
    main()
