"""The resolution sweep of Chain-of-Focus: the same tasks at several sizes of the first view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from environments.arguments import EpisodeArguments
from evaluation.arguments import EvaluationArguments
from evaluation.discover import SWEEP
from evaluation.playing import evaluate
from fovea.config import ConfigError
from fovea.models.loading import Model
from fovea.processes import process_state
from fovea.runs.records import Summary
from fovea.tasks import Task


def sweep(
    model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments
) -> dict[int, Summary]:
    """The summaries by size of the first view, in square pixels' side; also written to sweep.json.

    Raises:
        ConfigError: for a size that the model's processor would shrink.
    """
    most = model.limits.max_pixels
    sides = arguments.view_sizes_px or ()
    if over := [side for side in sides if side**2 > most]:
        raise ConfigError(
            f"first views of {over} pixels a side are more than the {most} pixels that the model is shown at most: "
            f"raise --max_pixels to {max(over) ** 2}"
        )
    folder = Path(arguments.output_dir)
    summaries = {}
    for side in sides:
        resized = [replace(task, first_view_max_pixels=side**2) for task in tasks]
        here = replace(arguments, output_dir=str(folder / f"view_{side}"))
        summaries[side] = evaluate(model, resized, here, episodes)
    content = {side: asdict(summary) for side, summary in summaries.items()}
    if process_state().is_main_process:
        (folder / SWEEP).write_text(json.dumps(content, indent=2) + "\n")
    return summaries


def read_sweep(path: Path) -> Mapping[int, float]:
    """Accuracy by size of the first view."""
    return {int(side): summary["accuracy"] for side, summary in json.loads(path.read_text()).items()}
