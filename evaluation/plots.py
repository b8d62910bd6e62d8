"""The report's plots, as SVG texts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CURVES = {
    "reward": ("reward", "mean of a step"),
    "rewards/accuracy/mean": ("accuracy of rollouts", "share"),
    "zooms/rate": ("episodes that zoom", "share"),
    "entropy": ("entropy", "nats a token"),
    "completions/mean_length": ("length of a rollout", "tokens"),
}
"""Metrics that are drawn against the step: what each is called, and its unit."""
LOSSES = {True: "GRPO loss", False: "SFT loss, nats a token"}
"""Titles of the loss of runs with rewards (True) and without: both have one name, and separate plots."""
MOST_INSIDE = 4
"""Entries of a legend that fit among the curves; longer ones stand below."""
Curve = Sequence[tuple[float, float]]


def learning_curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """One plot per metric that some run has logged; `metrics` are each run's rows."""
    plots = []
    reward_parts = sorted(
        {name for rows in metrics.values() for row in rows for name in row if re.fullmatch(r"rewards/.+/mean", name)}
    )
    parts = {name: (name.removeprefix("rewards/").removesuffix("/mean"), "mean of a step") for name in reward_parts}
    for name, (title, unit) in (parts | CURVES).items():
        plots += _metric(name, title, unit, metrics)
    has_rewards = {run: any("reward" in row for row in rows) for run, rows in metrics.items()}
    for with_rewards, title in LOSSES.items():
        runs = {run: rows if has_rewards[run] is with_rewards else [] for run, rows in metrics.items()}
        plots += _metric("loss", title, "loss", runs)
    return plots


def _metric(name: str, title: str, unit: str, metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The plot of a metric, if some run has logged it."""
    curves = {run: [(row["step"], row[name]) for row in rows if name in row] for run, rows in metrics.items()}
    return [_lines(title, "step", curves, y_label=unit, smooth=True)] if any(curves.values()) else []


def by_step(title: str, curves: Mapping[str, Curve]) -> str:
    """Shares against the training step."""
    return _lines(title, "step", curves, y_label="share", smooth=True)


def frontier(cost: str, points: Mapping[str, tuple[float, float, tuple[float, float]]]) -> str:
    """Accuracy with its interval against what a question costs: name -> (cost, accuracy, interval)."""
    figure, axes = _figure("what accuracy costs", cost, "accuracy")
    for number, (name, (spent, accuracy, interval)) in enumerate(points.items()):
        marker = "osD^v"[number // 10 % 5]  # colours repeat after ten
        errors = _errors([accuracy], [interval])
        axes.errorbar([spent], [accuracy], yerr=errors, fmt=marker, capsize=3, label=_plain(name))
    axes.set_ylim(bottom=0)
    return _svg(figure)


def by_layer(title: str, curves: Mapping[str, Mapping[int, tuple[float, float]]]) -> str:
    """A share by layer: name -> layer -> (share, half the width of its interval)."""
    figure, axes = _figure(title, "layer", "share")
    for name, curve in curves.items():
        layers, points = zip(*sorted(curve.items()), strict=True)
        shares, margins = zip(*points, strict=True)
        axes.errorbar(layers, shares, yerr=margins, fmt="o-", capsize=3, label=_plain(name))
    axes.set_ylim(0, 1)
    return _svg(figure)


def against_axis(
    axis: str, curves: Mapping[str, Mapping[int, tuple[float, tuple[float, float]]]], *, what: str = "accuracy"
) -> str:
    """Accuracy, or what else is said, against the values of one axis: name -> value -> (accuracy, interval)."""
    figure, axes = _figure(f"{what} by {axis}", axis, what)
    for name, curve in curves.items():
        values, points = zip(*sorted(curve.items()), strict=True)
        accuracies, intervals = zip(*points, strict=True)
        axes.errorbar(values, accuracies, yerr=_errors(accuracies, intervals), fmt="o-", capsize=3, label=_plain(name))
    axes.set_ylim(0, 1)
    return _svg(figure)


def _errors(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> list[list[float]]:
    """The two rows of errors that error bars are drawn from."""
    pairs = list(zip(values, intervals, strict=True))
    return [
        [max(0.0, value - low) for value, (low, _) in pairs],
        [max(0.0, high - value) for value, (_, high) in pairs],
    ]


def sweep(accuracies: Mapping[str, Mapping[int, float]]) -> str:
    """Accuracy against the size of the first view, run by run."""
    curves = {
        run: sorted((float(side), value) for side, value in accuracy_by_side.items())
        for run, accuracy_by_side in accuracies.items()
    }
    return _lines("size of the first view", "pixels a side", curves, y_label="accuracy")


def against_images(title: str, y_label: str, curves: Mapping[str, Mapping[int, float]]) -> str:
    """A number of each evaluation against how many images a task has."""
    points = {name: sorted((float(number), value) for number, value in curve.items()) for name, curve in curves.items()}
    return _lines(title, "images of a task", points, y_label=y_label)


def zooms_against_need(rates: Mapping[str, Mapping[str, float]], needs: Sequence[str]) -> str:
    """The share of episodes that zoom, run by run, by how small what is asked about is."""
    figure, axes = _figure(
        "zooms against need", "share of the image that the task's smallest box covers", "share that zooms"
    )
    present_needs = [need for need in needs if any(need in shares for shares in rates.values())]
    width = 0.8 / max(1, len(rates))
    for number, (run, shares) in enumerate(rates.items()):
        positions = np.arange(len(present_needs)) + (number - (len(rates) - 1) / 2) * width
        axes.bar(positions, [shares.get(need, 0.0) for need in present_needs], width, label=_plain(run))
    axes.set_xticks(range(len(present_needs)), present_needs)
    axes.set_ylim(0, 1)
    return _svg(figure)


def _lines(title: str, x_label: str, curves: Mapping[str, Curve], *, y_label: str = "", smooth: bool = False) -> str:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(title, x_label, y_label)
    for number, (run, curve) in enumerate(curves.items()):
        if not curve:
            continue
        steps, values = np.array(curve, dtype=float).T
        window = max(1, len(values) // 15) if smooth else 1
        if window > 1:
            axes.plot(steps, values, alpha=0.25, linewidth=0.8, color=f"C{number}")
            values = np.convolve(values, np.ones(window) / window, mode="valid")
            steps = steps[window - 1 :]
        marker = "" if smooth and len(values) > 1 else "o"
        axes.plot(steps, values, label=_plain(run), color=f"C{number}", marker=marker)
    if smooth:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def _figure(title: str, x_label: str, y_label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_plain(title), fontsize=9)
    axes.set_xlabel(_plain(x_label), fontsize=8)
    axes.set_ylabel(_plain(y_label), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    return figure, axes


def _plain(text: str) -> str:
    """The text with nothing that matplotlib takes for mathematics, or for a label to be left out."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def _svg(figure: Any) -> str:
    import matplotlib

    (axes,) = figure.axes
    if (entries := len(axes.get_legend_handles_labels()[1])) > MOST_INSIDE:
        figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(entries / 2))
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    else:
        axes.legend(fontsize=7)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fovea", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
