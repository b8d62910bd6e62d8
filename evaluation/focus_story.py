"""Focus-Centric Visual Chain on the tiny model, offline: `make papers-focus` calls it.

The same albums taught as final answers and as chains, GRPO in the focus environment behind the chains, and what each is
worth on held-out albums, and on albums of 2 to 24 images. Each step is the published command; what is there already is
not made again. Two jobs run side by side, each on half of the cores, and the last evaluations in two processes. So that
the story takes minutes, SFT takes one of the recipes' two epochs, GRPO 24 of their 300 steps, and the sweep three of
its seven sizes, each model as it was taught. With `--full` it is what docs/papers/focus_chain.md has tables of. Other
seeds (`python -m evaluation.focus_story --seed 1`) train on the traces of the first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from evaluation.compare import compare, table, write
from evaluation.tiny_story import ALONE, LAUNCH, TOGETHER, evaluate, fovea, run, side_by_side, told_in, train
from fovea.commands import from_zero, plain_parser

FOLDER = Path("runs/focus_chain/tiny")
RECIPES = "papers/focus_chain"
EVALUATION = f"{RECIPES}/tiny_eval.yaml"
BASE = "tiny"
NAMES = ("base", "sft_answers", "sft", "rl")
AT_ONCE = ("--environment", "views", "--max_image_tokens", "4096")
"""All images at full size, up to 24 of them."""
SWEEP, SHORT_SWEEP = "synthesis.shapes.albums:sweep_albums", "synthesis.shapes.albums:short_sweep_albums"
"""Albums of 2 to 24 images."""
SHORT_SFT = ("--num_train_epochs", "1")
SHORT_GRPO = ("--max_steps", "24")


def make_traces(name: str, *options: str) -> None:
    """Writes the traces of the albums, once for all seeds."""
    if not (FOLDER / name / "traces.jsonl").exists():
        made = ("--output_dir", str(FOLDER / name), *options)
        run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml", *made)


def tell(folder: Path, seed: int, *, is_full: bool) -> None:
    """Teaches and judges what is not there yet, on the CPU."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    base, answers, sft, rl = (folder / name for name in NAMES)
    seeded = ("--seed", str(seed))
    sweep = ("--dataset_name", SWEEP if is_full else SHORT_SWEEP)

    def teach(model: Path, recipe: str, traces: str, *options: str) -> None:
        make_traces(traces, *options)
        train(
            model, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/{recipe}", "--output_dir", str(model),
            *seeded, *(() if is_full else SHORT_SFT),
        )  # fmt: skip

    taught = Event()

    def chains() -> None:
        try:
            teach(sft, "tiny_sft.yaml", "traces")
        finally:
            taught.set()  # the other job then finds no checkpoint, and stops too
        train(
            rl, *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml", "--model_name_or_path", str(sft),
            "--output_dir", str(rl), *seeded, *(() if is_full else SHORT_GRPO),
        )  # fmt: skip

    def beside() -> None:
        teach(answers, "tiny_answers_sft.yaml", "answers", *AT_ONCE)
        judge(answers, answers / "evaluation", *AT_ONCE)
        judge(answers, answers / "sweep_at_once", *sweep, *AT_ONCE)
        judge(BASE, base / "sweep_at_once", *sweep, *AT_ONCE, "--prompt", "direct")
        if is_full:
            judge(BASE, base / "sweep_focus", *sweep)
        taught.wait()
        judge(sft, sft / "evaluation")
        judge_on_sweep(sft)

    def judge_on_sweep(model: Path, command: Sequence[str] = ALONE) -> None:
        """Evaluates a checkpoint that focuses on the sweep, in both modes."""
        judge(model, model / "sweep_focus", *sweep, command=command)
        if is_full:
            judge(model, model / "sweep_at_once", *sweep, *AT_ONCE, command=command)

    side_by_side(chains, beside)
    judge(rl, rl / "evaluation", command=TOGETHER)
    judge_on_sweep(rl, command=TOGETHER)


def judge(model: str | Path, folder: Path, *options: str, command: Sequence[str] = ALONE) -> None:
    """Evaluates a checkpoint on albums."""
    evaluate(model, folder, *options, config=EVALUATION, command=command)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seed", type=from_zero, default=0, help="of the trainings")
    parser.add_argument("--full", action="store_true", help="all epochs, steps and sizes")
    asked = parser.parse_args()
    folder = told_in(FOLDER, seed=asked.seed, is_full=asked.full)
    tell(folder, asked.seed, is_full=asked.full)
    base, answers, sft, rl = (folder / name for name in NAMES)
    comparison = compare(*(path / "evaluation" for path in (answers, sft, rl)))
    write(comparison, folder / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {folder / 'comparison.json'}")
    for path in (sft, rl):
        fovea("rescore", str(path / "evaluation"), "--reward_funcs", "focus_f1")
    fovea("report", *(str(path) for path in (base, answers, sft, rl)), "--output", str(folder / "report.html"))


if __name__ == "__main__":
    main()
