"""The report's plots of evaluations: what each draws, from episodes and summaries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation import attention, history, plots, pooling
from evaluation.discover import ATTENTION, HISTORY, POOLING, SWEEP, FoundRun
from evaluation.pace import pace_of
from evaluation.summary import accuracy_of
from evaluation.sweep import read_sweep
from evaluation.task_history import accuracies_of_groups
from evaluation.trajectories import Trajectories
from fovea.runs.records import Summary


def of_evaluations(
    runs: Sequence[FoundRun], summaries: Mapping[tuple[str, str], Summary], shown: Trajectories
) -> list[str]:
    """All of them, as SVG texts; `summaries` are by run and evaluation."""
    return [
        *(_frontiers(runs, summaries) if summaries else []),
        *([_zooms(runs, shown)] if summaries else []),
        *_by_number_of_images(runs, shown),
        *_by_axis(runs, shown),
        *_sweeps(runs),
        *_attention(runs),
        *_pooling(runs),
        *_histories(runs),
        *_groups(runs),
    ]


def _frontiers(runs: Sequence[FoundRun], summaries: Mapping[tuple[str, str], Summary]) -> list[str]:
    """Plots of accuracy against cost: tokens, visual tokens, and seconds for each engine and device."""
    stored = {(run.name, name): stored.folder for run in runs for name, stored in run.evaluations.items()}
    costs: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    are_known = all(summary.context_tokens_per_question is not None for summary in summaries.values())
    for key, summary in summaries.items():
        for cost, spent in (
            (
                "tokens a question, prompt and crops included",
                summary.context_tokens_per_question if are_known else None,
            ),
            ("tokens written a question", None if are_known else summary.tokens_per_question),
            ("visual tokens a question", summary.image_tokens_per_question),
        ):
            if spent is not None:
                costs[cost][key] = spent
        if (pace := pace_of(stored[key])) is not None:
            costs[f"seconds a question ({pace.setting})"][key] = pace.seconds
    return [
        plots.frontier(
            cost,
            {" / ".join(key): (spent, summaries[key].accuracy, summaries[key].interval) for key, spent in of.items()},
        )
        for cost, of in costs.items()
    ]


def _zooms(runs: Sequence[FoundRun], shown: Trajectories) -> str:
    """The share of episodes that zoom, by how much of its image the smallest box of a task covers."""
    rates: dict[str, dict[str, float]] = {}
    for run in runs:
        if not run.evaluations:
            continue
        number = next(n for n, one in enumerate(shown.sets) if one["folder"] == str(run.main.folder))
        zoomed = defaultdict(list)
        for episode in shown.episodes:
            if episode["set"] == number:
                zoomed[_need(shown.tasks[episode["task"]]["targets"])].append(episode["num_zooms"] > 0)
        rates[run.name] = {need: fmean(zooms) for need, zooms in zoomed.items()}
    return plots.zooms_against_need(rates, [*NEEDS.values(), NO_BOX])


def _by_number_of_images(runs: Sequence[FoundRun], shown: Trajectories) -> list[str]:
    """Accuracy and visual tokens of each evaluation by how many images a task has, where that varies."""
    accuracies, tokens = (defaultdict[str, dict[int, list[float]]](lambda: defaultdict(list)) for _ in range(2))
    for name, task, episode in _evaluated(runs, shown):
        for found, what in ((accuracies, "score"), (tokens, "num_image_tokens")):
            if what in episode:
                found[name][len(task["images"])].append(episode[what])
    drawn = []
    for what, found in (("accuracy", accuracies), ("visual tokens", tokens)):
        curves = {name: {number: fmean(values) for number, values in by_number.items()}
                  for name, by_number in found.items() if len(by_number) > 2}  # fmt: skip
        drawn += [plots.against_images(f"{what} by number of images", what, curves)] if curves else []
    return drawn


def _by_axis(runs: Sequence[FoundRun], shown: Trajectories) -> list[str]:
    """For each axis that tasks were swept over, and each family: accuracy of each evaluation against its values."""
    samples = {str(stored.folder): iter(stored.samples) for run in runs for stored in run.evaluations.values()}
    found: dict[tuple[str, str], Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for name, task, episode in _evaluated(runs, shown):
        # Episodes are shown in the order of samples, and before those of a training in the same folder.
        sample = next(samples[shown.sets[episode["set"]]["folder"]], None)
        if sample is not None and "sweep" in task:
            found[task["sweep"]["axis"], task["family"]][name][task["sweep"]["value"]].append(sample)
    drawn = []
    for (axis, family), by_name in sorted(found.items()):
        accuracies = {name: {value: accuracy_of(ones) for value, ones in of.items()} for name, of in by_name.items()}
        curves = {
            name: {value: (one.accuracy, one.interval) for value, one in of.items()} for name, of in accuracies.items()
        }
        drawn.append(plots.against_axis(f"{axis}, {family}", curves))
    return drawn


def _evaluated(runs: Sequence[FoundRun], shown: Trajectories) -> Iterator[tuple[str, Any, Any]]:
    """The name of the evaluation, the task and the episode, for each evaluated episode in the viewer."""
    names = {str(stored.folder): f"{run.name} / {name}" for run in runs for name, stored in run.evaluations.items()}
    for episode in shown.episodes:
        name = names.get(shown.sets[episode["set"]]["folder"])
        if name is not None:
            yield name, shown.tasks[episode["task"]], episode


NEEDS = {0.001: "under 0.1%", 0.01: "0.1-1%", 0.1: "1-10%", 1.01: "over 10%"}
"""Shares of an image that a task's smallest box covers: the smaller, the more a zoom is needed."""
NO_BOX = "no box"


def _need(targets: Sequence[Mapping[str, Any]]) -> str:
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (target["box"] for target in targets)]
    return next((name for most, name in NEEDS.items() if min(areas) < most), NO_BOX) if areas else NO_BOX


def _groups(runs: Sequence[FoundRun]) -> list[str]:
    """Plots of a training's groups: never, sometimes and always right. Replaced groups count too."""
    drawn = []
    for run in runs:
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        for (step, _), scores in accuracies_of_groups(run.training.rollouts if run.training else ()).items():
            counts[step][_outcome(scores)] += 1
        curves = {
            outcome: [(float(step), count[outcome] / count.total()) for step, count in sorted(counts.items())]
            for outcome in OUTCOMES
        }
        drawn += [plots.by_step(f"groups of {run.name} that are right", curves)] if len(counts) > 1 else []
    return drawn


OUTCOMES = ("never", "sometimes", "always")
"""Kinds of groups by the correctness of their rollouts. Accuracy teaches nothing in the first and the last kind."""


def _outcome(scores: Sequence[float]) -> str:
    if min(scores) < max(scores) or 0 < min(scores) < 1:
        return "sometimes"
    return "always" if min(scores) == 1 else "never"


def _named(run: FoundRun, file: str) -> list[tuple[str, Path]]:
    """A run's files of a name, sweeps or analyses, each under a name of its own."""
    paths = run.files(file)
    return [(run.name if len(paths) == 1 else f"{run.name} / {path.parent.name}", path) for path in paths]


def _sweeps(runs: Sequence[FoundRun]) -> list[str]:
    """The plot of the sweeps over view sizes in the runs' folders, if there are any."""
    accuracies = {name: read_sweep(path) for run in runs for name, path in _named(run, SWEEP)}
    return [plots.sweep(accuracies)] if accuracies else []


def _attention(runs: Sequence[FoundRun]) -> list[str]:
    """Plots of the attention of visual tokens, layer by layer: one for images and one for text."""
    found = {name: attention.read(path) for run in runs for name, path in _named(run, ATTENTION)}
    return [
        plots.by_layer(
            f"attention of visual tokens to {name}",
            {
                run: {one.layer: (one.shares[place], one.margins[place]) for one in shares}
                for run, shares in found.items()
            },
        )
        for place, name in enumerate(attention.TO)
        if found
    ]


def _pooling(runs: Sequence[FoundRun]) -> list[str]:
    """Accuracy with fewer tokens an image, and with as many that hold fewer pixels."""
    curves: dict[str, dict[int, tuple[float, tuple[float, float]]]] = defaultdict(dict)
    for run in runs:
        for name, path in _named(run, POOLING):
            for point in pooling.read(path):
                for kind in pooling.KINDS if point.factor == 1 else (point.kind,):
                    curves[f"{name}, {kind}"][point.factor] = point.accuracy, point.interval
    return [plots.against_axis("tokens, or pixels, that became one", curves)] if curves else []


def _histories(runs: Sequence[FoundRun]) -> list[str]:
    """Accuracy, and what the tool did, of the checkpoints of a training."""
    drawn = []
    for what, title in (("accuracy", "accuracy"), ("terms", "what the tool did")):
        curves = {
            f"{name} {curve}".rstrip(): {point.step: (point.value, point.interval) for point in points}
            for run in runs
            for name, path in _named(run, HISTORY)
            for curve, points in history.read(path, what).items()
        }
        drawn += [plots.against_axis("training step", curves, what=title)] if curves else []
    return drawn
