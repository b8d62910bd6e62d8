"""Focus-Centric Visual Chain on the tiny model, offline: `make papers-focus` calls it.

The same albums taught as final answers and as chains, GRPO in the focus environment behind the chains, and what each is
worth on held-out albums. Each step is the published command; what is there already is not made again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evaluation.compare import compare, table, write
from evaluation.tiny_story import LAUNCH, evaluate, fovea, run, train

FOLDER = Path("runs/focus_chain/tiny")
RECIPES = "papers/focus_chain"
AT_ONCE = ("--environment", "views", "--max_image_tokens", "4096")
"""All images at full size, up to 24 of them."""
SWEEP = "synthesis.shapes.albums:sweep_albums"
"""Albums of 2 to 24 images."""


def main() -> None:
    answers, sft, rl = (FOLDER / name for name in ("sft_answers", "sft", "rl"))
    for name, options in (("traces", ()), ("answers", AT_ONCE)):
        if not (FOLDER / name / "traces.jsonl").exists():
            folder = str(FOLDER / name)
            run("fovea", "traces", "--config", f"{RECIPES}/tiny_traces.yaml", "--output_dir", folder, *options)
    train(answers, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/tiny_answers_sft.yaml")
    train(sft, sys.executable, "sft/train_sft.py", "--config", f"{RECIPES}/tiny_sft.yaml")
    train(rl, *LAUNCH, "rl/train_grpo.py", "--config", f"{RECIPES}/tiny_grpo.yaml")
    config = f"{RECIPES}/tiny_eval.yaml"
    for model in (answers, sft, rl):
        at_once = AT_ONCE if model is answers else ()
        evaluate(model, model / "evaluation", *at_once, config=config)
        evaluate(model, model / "evaluation_sweep", "--dataset_name", SWEEP, *at_once, config=config)
    comparison = compare(*(path / "evaluation" for path in (answers, sft, rl)))
    write(comparison, FOLDER / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {FOLDER / 'comparison.json'}")
    for path in (sft, rl):
        fovea("rescore", str(path / "evaluation"), "--reward_funcs", "focus_f1")
    fovea("report", *(str(path) for path in (answers, sft, rl)), "--output", str(FOLDER / "report.html"))


if __name__ == "__main__":
    main()
