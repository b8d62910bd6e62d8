"""Plays a checkpoint on tasks and scores it: `fovea eval CHECKPOINT --dataset_name … --output_dir DIR`.

Writes samples.jsonl (one line per episode, as each batch finishes) and summary.json. The same command again goes on
where a stopped one left off. On a public benchmark (`--benchmark vstar`) every answer is scored by our strict rule and
by those of the published tools; answers on which they differ go to disagreements.jsonl. Crop sizes, the frame of
boxes and the limits of turns and tokens are those of the training that left CHECKPOINT, unless you say otherwise.
`--arms with_tool,without_tool` plays the same questions with and without the tool and splits what it did;
`--all_checkpoints` does either for each checkpoint that a training has kept. Several processes share the questions and
score what one would: `accelerate launch -m evaluation.evaluate CHECKPOINT …`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from environments.arguments import EpisodeArguments
from environments.taught import checkpoint_defaults
from evaluation import split
from evaluation.arguments import EvaluationArguments
from evaluation.arms import play_arms
from evaluation.history import play_history
from evaluation.playing import evaluate, refuse_folder
from evaluation.summary import table
from evaluation.sweep import sweep
from fovea.config import parse
from fovea.ledger import LEDGER
from fovea.processes import process_state, take_cores, told_to_launcher
from fovea.runs.records import Summary
from fovea.server import EndpointError


def main() -> None:
    defaults = checkpoint_defaults(sys.argv)
    arguments, episodes = parse((EvaluationArguments, EpisodeArguments), defaults=defaults, description=__doc__)
    process_state(timeout=timedelta(days=1))  # one process may still play when another has ended
    take_cores()
    folder = Path(arguments.output_dir)
    try:
        summaries = dict(_summaries(arguments, episodes))
    except EndpointError as error:
        raise SystemExit(f"{error}\nWhat was played is in {folder}: the same command goes on with it") from error
    if not process_state().is_main_process:
        return
    for name, summary in summaries.items():
        print(f"\n{name}\n{table(summary)}".lstrip())
    if arguments.arms and split.has_arms(folder):
        print(f"\n{split.table(split.split(folder))}")
    LEDGER.write(folder / "ledger.json")
    print(f"\n{LEDGER.table()}\n\nwritten to {folder}")


def _summaries(arguments: EvaluationArguments, episodes: EpisodeArguments) -> Iterator[tuple[str, Summary]]:
    """Summaries of the evaluations, by name."""
    LEDGER.restart()
    if arguments.all_checkpoints:
        for step, found in play_history(arguments, episodes).items():
            yield from ((f"after {step} steps {arm}".rstrip(), summary) for arm, summary in found.items())
        return
    if not (arguments.view_sizes_px or arguments.arms):  # those have folders of their own below
        refuse_folder(arguments, episodes)
    model, tasks = arguments.load()
    LEDGER.restart()
    if arguments.view_sizes_px:
        for side, summary in sweep(model, tasks, arguments, episodes).items():
            yield f"first views of at most {side}x{side} pixels", summary
    elif arguments.arms:
        yield from play_arms(model, tasks, arguments, episodes).items()
    else:
        yield "", evaluate(model, tasks, arguments, episodes)


if __name__ == "__main__":
    with told_to_launcher():
        main()
