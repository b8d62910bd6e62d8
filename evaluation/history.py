"""The checkpoints that a training has kept, each evaluated: accuracy, and what the tool did, by step."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from environments.arguments import EpisodeArguments
from evaluation import split
from evaluation.arguments import EvaluationArguments
from evaluation.arms import play_arms
from evaluation.discover import HISTORY
from evaluation.playing import evaluate
from fovea.arguments import said_in_a_line
from fovea.config import ConfigError
from fovea.processes import process_state
from fovea.runs.checkpoints import kept_checkpoints, step_of
from fovea.runs.records import Summary


@dataclass(frozen=True)
class Point:
    """A value after a step of training, with its interval of 95%."""

    step: int
    value: float
    interval: tuple[float, float]


def play_history(arguments: EvaluationArguments, episodes: EpisodeArguments) -> dict[int, dict[str, Summary]]:
    """The summaries of each kept checkpoint by step, and in each by arm (by "" without arms); also in history.json.

    Raises:
        ConfigError: if the run has kept no checkpoint, or something cannot be loaded.
    """
    run, folder = Path(arguments.model_name_or_path), Path(arguments.output_dir)
    checkpoints = kept_checkpoints(run)
    if not checkpoints:
        raise ConfigError(
            f"{run} holds no checkpoint-*: name the folder of a training, and keep its checkpoints with --save_steps "
            "and without --save_total_limit"
        )
    with said_in_a_line():
        tasks = arguments.load_tasks()
    summaries, content = {}, {}
    for checkpoint in checkpoints:
        output = folder / checkpoint.name
        here = replace(arguments, all_checkpoints=False, model_name_or_path=str(checkpoint), output_dir=str(output))
        with said_in_a_line():
            model = here.load_model()
        found = play_arms(model, tasks, here, episodes) if here.arms else {"": evaluate(model, tasks, here, episodes)}
        summaries[step_of(checkpoint)] = found
        content[step_of(checkpoint)] = {
            "accuracy": {arm: [summary.accuracy, *summary.interval] for arm, summary in found.items()},
            "terms": _terms(output) if split.has_arms(output) else {},
        }
    if process_state().is_main_process:
        (folder / HISTORY).write_text(json.dumps(content, indent=2) + "\n")
    return summaries


def _terms(folder: Path) -> dict[str, list[float]]:
    [one] = split.split(folder)["checkpoints"].values()
    return {name.replace("_", " "): [term["value"], *term["interval"]] for name, term in one["terms"].items()}


def read(path: Path, what: str) -> dict[str, list[Point]]:
    """The curves of a history.json, by name: "accuracy" of each arm, or the "terms" of the split."""
    curves: dict[str, list[Point]] = {}
    content: dict[str, Any] = json.loads(path.read_text())
    for step, found in content.items():
        for name, (value, low, high) in found[what].items():
            curves.setdefault(name, []).append(Point(int(step), value, (low, high)))
    return curves
