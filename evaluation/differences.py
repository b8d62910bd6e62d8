"""Comparisons in a report: each run with each, and each run with itself under another condition; also in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from evaluation.compare import changed_settings, compare_pair
from evaluation.discover import DEFAULT, FoundRun, is_plain
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
    """Run against run: their main evaluations, and others of the same name with nothing taken away or forced."""
    pairs = []
    for a, b in combinations(runs, 2):
        main_a, main_b = next(iter(a.evaluations)), next(iter(b.evaluations))
        shared = [name for name in a.evaluations if name in b.evaluations]
        plain = [name for name in shared if all(is_plain(run.evaluations[name].folder) for run in (a, b))]
        for name_a, name_b in dict.fromkeys([(main_a, main_b), *zip(plain, plain, strict=True)]):
            names = (_name(a, name_a), _name(b, name_b))
            pairs.append(Pair(*names, a.evaluations[name_a].folder, b.evaluations[name_b].folder))
    return pairs


def _name(run: FoundRun, evaluation: str) -> str:
    return run.name if evaluation == DEFAULT else f"{run.name} / {evaluation}"


def _pairs_within(runs: Sequence[FoundRun]) -> list[Pair]:
    """Each run against itself with something taken away or forced, where it was asked some of the same questions."""
    pairs = []
    for run in runs:
        (main_name, main), *others = run.evaluations.items()
        asked = {sample.task_id for sample in main.samples}
        pairs += [
            Pair(f"{run.name} / {name}", f"{run.name} / {main_name}", other.folder, main.folder)
            for name, other in others
            if any(sample.task_id in asked for sample in other.samples)
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
"""Names in words for the images that zooms may return instead of true crops."""


def headline(runs: Sequence[FoundRun], compared: Compared) -> list[str]:
    """In words: the last run against the one before, at which cost, and with other crops. Nothing of a single run."""
    *_, before, last = [None, None, *(run for run in runs if run.evaluations)]
    if before is None or last is None:
        return []
    samples = [{stored.folder: stored.samples for stored in run.evaluations.values()} for run in (before, last)]
    lines = []
    for pair in compared.between:
        if pair.a in samples[0] and pair.b in samples[1] and pair in compared.results:
            zooms = [summarize(samples[0][pair.a]).zooms_per_question, summarize(samples[1][pair.b]).zooms_per_question]
            lines += _in_words(pair, compared.results[pair], zooms)
    for other in compared.within:
        crops = read_run(other.a).chosen("evaluation", "episodes").get("crops", "true")
        if lines and other.b == last.main.folder and crops in CROPS and other in compared.results:
            accuracy = compared.results[other]["accuracy_a"]
            lines.append(f"With {CROPS[crops]} in place of its crops {last.name} comes to {accuracy:.3f}.")
    return lines


def _in_words(pair: Pair, result: Mapping[str, Any], zooms: Sequence[float]) -> list[str]:
    """The comparison of a pair, with the zooms a question of both."""
    low, high = result["interval"]
    more = "more" if result["difference"] >= 0 else "fewer"
    lines = [
        f"{pair.name_b} answers {100 * abs(result['difference']):.1f} points {more} than {pair.name_a}: "
        f"{result['accuracy_b']:.3f} after {result['accuracy_a']:.3f}, {result['n']} questions, 95% interval of the "
        f"difference {low:+.3f} to {high:+.3f}, {zooms[1]:.2f} zooms a question after {zooms[0]:.2f}."
    ]
    if low <= 0 <= high:
        lines.append("The interval includes 0, so that this may be chance.")
    if result["changed_settings"]:
        lines.append(f"They were evaluated under different settings: {'; '.join(result['changed_settings'])}.")
    return lines
