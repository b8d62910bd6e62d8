"""What a report compares: each run with each, and each run with itself with something taken away; and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from evaluation.compare import changed_settings, compare_pair
from evaluation.discover import FoundRun
from evaluation.evaluated import load
from evaluation.summary import summarize
from fovea.runs.records import read_run
from fovea.statistics import holm


@dataclass(frozen=True)
class Pair:
    """Two evaluations that are compared, and under which names."""

    name_a: str
    name_b: str
    a: Path
    b: Path


def _pairs_between(runs: Sequence[FoundRun]) -> list[Pair]:
    """Run against run, by their main evaluations."""
    return [Pair(a.name, b.name, a.main.folder, b.main.folder) for a, b in combinations(runs, 2)]


def _pairs_within(runs: Sequence[FoundRun]) -> list[Pair]:
    """Each run against itself with something taken away or forced."""
    pairs = []
    for run in runs:
        (main_name, main), *others = run.evaluations.items()
        pairs += [
            Pair(f"{run.name} / {name}", f"{run.name} / {main_name}", other.folder, main.folder)
            for name, other in others
        ]
    return pairs


@dataclass(frozen=True)
class Compared:
    """The pairs between runs and within them, the comparison of each that can be made, and why others cannot."""

    between: Sequence[Pair]
    within: Sequence[Pair]
    results: Mapping[Pair, Mapping[str, Any]]
    skipped: Sequence[str]


def compare_runs(runs: Sequence[FoundRun], *, seed: int = 0) -> Compared:
    """All comparisons, `p_adjusted` for the number of all."""
    evaluated = [run for run in runs if run.evaluations]
    between, within = _pairs_between(evaluated), _pairs_within(evaluated)
    results: dict[Pair, dict[str, Any]] = {}
    skipped = []
    for pair in (*between, *within):
        try:
            a, b = load(pair.a), load(pair.b)
            results[pair] = {**compare_pair(a, b, seed=seed), "changed_settings": changed_settings([a, b])}
        except ValueError as error:
            skipped.append(f"{pair.name_a} and {pair.name_b} are not compared: {error}")
    adjusted = holm([result["p_value"] for result in results.values()])
    for result, p_value in zip(results.values(), adjusted, strict=True):
        result["p_adjusted"] = p_value
    return Compared(between, within, results, skipped)


CROPS = {"random": "crops of random places", "other": "crops of another image", "target": "crops of the target box",
         "noise": "noise", "blank": "blank crops"}  # fmt: skip
"""What zooms may return instead of true crops, in words."""


def headline(runs: Sequence[FoundRun], compared: Compared) -> list[str]:
    """In words: the last run against the one before, at which cost, and with other crops. Nothing of a single run."""
    *_, before, last = [None, None, *(run for run in runs if run.evaluations)]
    if before is None or last is None:
        return []
    pair = next(one for one in compared.between if (one.a, one.b) == (before.main.folder, last.main.folder))
    result = compared.results.get(pair)
    if result is None:
        return []
    low, high = result["interval"]
    more = "more" if result["difference"] >= 0 else "fewer"
    zooms = [summarize(run.main.samples).zooms_per_question for run in (before, last)]
    lines = [
        f"{last.name} answers {100 * abs(result['difference']):.1f} points {more} than {before.name}: "
        f"{result['accuracy_b']:.3f} after {result['accuracy_a']:.3f}, {result['n']} questions, 95% interval of the "
        f"difference {low:+.3f} to {high:+.3f}, {zooms[1]:.2f} zooms a question after {zooms[0]:.2f}."
    ]
    if low <= 0 <= high:
        lines.append("The interval includes 0, so that this may be chance.")
    if result["changed_settings"]:
        lines.append(f"They were evaluated under different settings: {'; '.join(result['changed_settings'])}.")
    for other in compared.within:
        crops = read_run(other.a).chosen("evaluation", "episodes").get("crops", "true")
        if other.b == last.main.folder and crops in CROPS and other in compared.results:
            accuracy = compared.results[other]["accuracy_a"]
            lines.append(f"With {CROPS[crops]} in place of its crops {last.name} comes to {accuracy:.3f}.")
    return lines
