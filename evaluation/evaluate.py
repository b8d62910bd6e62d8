"""Plays a checkpoint on tasks and scores it: `fovea eval CHECKPOINT --dataset_name … --output_dir DIR`.

Writes samples.jsonl (one line per episode, as each batch finishes) and summary.json. The same command again goes on
where a stopped one left off. On a public benchmark (`--benchmark vstar`) every answer is scored by our strict rule and
by those of the published tools; answers on which they differ go to disagreements.jsonl. Crop sizes and the frame of
boxes are those of the training that left CHECKPOINT, unless you say otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

from environments.arguments import EpisodeArguments
from environments.taught import checkpoint_defaults
from evaluation import split
from evaluation.arguments import EvaluationArguments
from evaluation.arms import play_arms
from evaluation.playing import evaluate
from evaluation.summary import table
from evaluation.sweep import sweep
from fovea.config import parse
from fovea.ledger import LEDGER
from fovea.runs.records import SAMPLES


def main() -> None:
    defaults = checkpoint_defaults(sys.argv)
    arguments, episodes = parse((EvaluationArguments, EpisodeArguments), defaults=defaults, description=__doc__)
    model, tasks = arguments.load()
    LEDGER.restart()
    if arguments.view_sizes_px:
        for side, summary in sweep(model, tasks, arguments, episodes).items():
            print(f"\nfirst views of at most {side}x{side} pixels\n{table(summary)}")
    elif arguments.arms:
        for arm, summary in play_arms(model, tasks, arguments, episodes).items():
            print(f"\n{arm}\n{table(summary)}")
        if split.has_arms(arguments.output_dir):
            print(f"\n{split.table(split.split(arguments.output_dir))}")
    else:
        print(table(evaluate(model, tasks, arguments, episodes)))
    folder = Path(arguments.output_dir)
    LEDGER.write(folder / "ledger.json")
    print(f"\n{LEDGER.table()}\n\nwritten to {folder / SAMPLES}")


if __name__ == "__main__":
    main()
