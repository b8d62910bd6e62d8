"""Focus-Centric Visual Chain on the tiny model, offline: `make papers-focus` calls it.

The same albums taught as final answers and as chains, GRPO in the focus environment behind the chains, and what each is
worth on held-out albums, and on albums of 2 to 24 images. Each step is the published command; what is there already is
not made again. Chains and answers are taught side by side, each on half of the cores. Other seeds (`python -m
evaluation.focus_story --seed 1`) train on the traces of the first.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from threading import Event

from evaluation.compare import compare, table, write
from evaluation.tiny_story import LAUNCH, evaluate, fovea, run, side_by_side, train

FOLDER = Path("runs/focus_chain/tiny")
RECIPES = "papers/focus_chain"
EVALUATION = f"{RECIPES}/tiny_eval.yaml"
BASE = "tiny"
NAMES = ("base", "sft_answers", "sft", "rl")
AT_ONCE = ("--environment", "views", "--max_image_tokens", "4096")
"""All images at full size, up to 24 of them."""
SWEEP = ("--dataset_name", "synthesis.shapes.albums:sweep_albums")
"""Albums of 2 to 24 images."""


def make_traces(name: str, *options: str) -> None:
    """Writes the traces of the albums, once for all seeds."""
    if not (FOLDER / name / "traces.jsonl").exists():
        made = ("--output_dir", str(FOLDER / name), *options)
        run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml", *made)


judge = partial(evaluate, config=EVALUATION)


def tell(folder: Path, seed: int) -> None:
    """Teaches and judges what is not there yet, two jobs side by side."""
    base, answers, sft, rl = (folder / name for name in NAMES)
    taught = Event()

    def teach(model: Path, *command: str) -> None:
        train(model, *command, "--output_dir", str(model), "--seed", str(seed))

    def chains() -> None:
        make_traces("traces")
        try:
            teach(sft, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/tiny_sft.yaml")
        finally:
            taught.set()  # the other job then finds no checkpoint, and stops too
        source = ("--model_name_or_path", str(sft))
        teach(rl, *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml", *source)
        judge(rl, rl / "evaluation")
        judge(rl, rl / "sweep_focus", *SWEEP)
        judge(rl, rl / "sweep_at_once", *SWEEP, *AT_ONCE)

    def beside() -> None:
        make_traces("answers", *AT_ONCE)
        teach(answers, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/tiny_answers_sft.yaml")
        judge(answers, answers / "evaluation", *AT_ONCE)
        judge(answers, answers / "sweep_at_once", *SWEEP, *AT_ONCE)
        judge(BASE, base / "sweep_at_once", *SWEEP, *AT_ONCE, "--prompt", "direct")
        judge(BASE, base / "sweep_focus", *SWEEP)
        taught.wait()
        judge(sft, sft / "evaluation")
        judge(sft, sft / "sweep_focus", *SWEEP)
        judge(sft, sft / "sweep_at_once", *SWEEP, *AT_ONCE)

    side_by_side(chains, beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    seed = parser.parse_args().seed
    folder = FOLDER if seed == 0 else FOLDER / f"seed_{seed}"
    tell(folder, seed)
    base, answers, sft, rl = (folder / name for name in NAMES)
    comparison = compare(*(path / "evaluation" for path in (answers, sft, rl)))
    write(comparison, folder / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {folder / 'comparison.json'}")
    for path in (sft, rl):
        fovea("rescore", str(path / "evaluation"), "--reward_funcs", "focus_f1")
    fovea("report", *(str(path) for path in (base, answers, sft, rl)), "--output", str(folder / "report.html"))


if __name__ == "__main__":
    main()
