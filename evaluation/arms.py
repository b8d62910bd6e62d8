"""The same questions in several arms: with the tool, without it, with its description alone, and in a single pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from environments.arguments import EpisodeArguments
from evaluation.arguments import EvaluationArguments
from evaluation.discover import ARMS
from evaluation.playing import evaluate
from fovea.models.loading import Model
from fovea.runs.records import Summary
from fovea.tasks import Task


def play_arms(
    model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments
) -> dict[str, Summary]:
    """The summary of each arm; each has a folder of its own below output_dir and goes on where it stopped."""
    folder = Path(arguments.output_dir)
    summaries = {}
    for arm in arguments.arms or ():
        changed: dict[str, Any] = {**ARMS[arm]}
        here = replace(arguments, arms=None, output_dir=str(folder / arm), **changed)
        summaries[arm] = evaluate(model, tasks, here, episodes)
    return summaries
