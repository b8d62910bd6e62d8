"""Effect of the tool: the difference between evaluations with and without it, split into four terms.

On questions that are wrong without the tool, right answers with it are a gain: of calls where the tool was called, of
the schema (the tool's description in the prompt) where it was not. On questions that are right without the tool, wrong
answers with it are a harm, of calls or of the schema in the same way. With a question's mean score s without the tool,
and an episode's score r and call c (0 or 1) with it,

    call gain = (1 - s) c r          schema gain = (1 - s) (1 - c) r
    call harm = s c (1 - r)          schema harm = s (1 - c) (1 - r)

and gains less harms are r - s, on every question. A term is its mass times its policy times its quality: how many
questions it can be had on, how often the tool is called there (or not), and how often that ends so. The terms are those
of MED (arXiv 2602.01334). Where the arm `schema_only` was played too, what carrying out the calls is worth is measured
itself, as with the tool against its description alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from evaluation.discover import ARMS, SCHEMA_ONLY, SINGLE_PASS, WITH_TOOL, WITHOUT_TOOL, folders_of
from evaluation.evaluated import Evaluated, by_cluster, difference, load, refuse_other_questions
from evaluation.markdown import markdown_row
from fovea.runs.records import SAMPLES, Sample
from fovea.statistics import crossed_interval

SIGNS = {"call_gain": 1, "schema_gain": 1, "call_harm": -1, "schema_harm": -1}
"""The terms, and how each enters the difference."""


def has_arms(pattern: str | Path) -> bool:
    """Returns True if every folder of a pattern holds both arms of the split."""
    folders = folders_of(pattern)
    arms = (WITH_TOOL, WITHOUT_TOOL)
    return bool(folders) and all((folder / arm / SAMPLES).exists() for folder in folders for arm in arms)


def called(sample: Sample) -> bool:
    """Returns True if the model called a tool in an episode, or tried to."""
    return any(turn.calls_a_tool for turn in sample.turns)


def terms(with_tool: Evaluated, without_tool: Evaluated, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Each term of the split [seeds, questions]; both evaluations hold the same questions and seeds."""
    score = without_tool.scores(ids)
    right = _means(with_tool, ids, lambda sample: sample.score)
    right_called = _means(with_tool, ids, lambda sample: sample.score * called(sample))
    calls = _means(with_tool, ids, called)
    right_uncalled = right - right_called
    return {
        "call_gain": (1 - score) * right_called,
        "schema_gain": (1 - score) * right_uncalled,
        "call_harm": score * (calls - right_called),
        "schema_harm": score * (1 - calls - right_uncalled),
    }


def _means(evaluated: Evaluated, ids: Sequence[str], value: Any) -> np.ndarray:
    return np.array([[fmean(map(value, seed[id])) for id in ids] for seed in evaluated.seeds])


def factors(
    with_tool: Evaluated, without_tool: Evaluated, ids: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Mass, policy and quality of each term; what cannot be had has a policy and a quality of 0. Each cluster counts
    once."""
    wrong, calls = 1 - without_tool.scores(ids), _means(with_tool, ids, called)
    values = terms(with_tool, without_tool, ids)
    parts = {}
    for name in values:
        masses = wrong if name.endswith("gain") else 1 - wrong
        all_reached = masses * (calls if name.startswith("call") else 1 - calls)
        mass, reached, value = (by_cluster(one, ids, clusters) for one in (masses, all_reached, values[name]))
        parts[name] = {
            "mass": float(mass.mean()),
            "policy": float(reached.sum() / mass.sum()) if mass.sum() else 0.0,
            "quality": float(value.sum() / reached.sum()) if reached.sum() else 0.0,
        }
    return parts


def split(*patterns: str | Path, seed: int = 0, rule: str | None = None) -> dict[str, Any]:
    """The split of each checkpoint, and how it changes from each to each later one.

    A pattern names a folder of `fovea eval --arms`, or such folders of several training seeds. Intervals are of 95%,
    over questions, and over seeds where there are several. Questions of one cluster are averaged first.

    Raises:
        ValueError: if arms or checkpoints hold different questions.
    """
    arms_by_pattern = {pattern: load_arms(pattern, rule=rule) for pattern in map(str, patterns)}
    clusters = {id: cluster for arms in arms_by_pattern.values() for evaluated in arms.values()
                for id, cluster in evaluated.clusters.items()}  # fmt: skip
    checkpoints: dict[str, Any] = {}
    kept: dict[str, tuple[list[str], dict[str, np.ndarray]]] = {}
    for pattern, arms in arms_by_pattern.items():
        with_tool, without_tool = arms[WITH_TOOL], arms[WITHOUT_TOOL]
        ids = sorted(with_tool.families)
        scores = {arm: evaluated.clustered(ids, clusters) for arm, evaluated in arms.items()}
        of_questions = terms(with_tool, without_tool, ids)
        values = {name: by_cluster(value, ids, clusters) for name, value in of_questions.items()}
        kept[pattern] = (ids, {"with": scores[WITH_TOOL], "without": scores[WITHOUT_TOOL], **values})
        parts = factors(with_tool, without_tool, ids, clusters)
        nothing = np.zeros_like(scores[WITH_TOOL][:1])
        checkpoints[pattern] = {
            "gap": _gap(scores[WITHOUT_TOOL], scores[WITH_TOOL], seed),
            "terms": {
                name: {"value": float(value.mean()), **_interval(nothing, value, seed), **parts[name]}
                for name, value in values.items()
            },
            "arms": {arm: float(of_arm.mean()) for arm, of_arm in scores.items()},
            "against": {
                arm: _gap(scores[arm], scores[WITH_TOOL], seed) for arm in (SCHEMA_ONLY, SINGLE_PASS) if arm in arms
            },
        }
    changes = [_change(a, b, kept, seed) for a, b in combinations(kept, 2)]
    return {"checkpoints": checkpoints, "changes": changes}


def load_arms(pattern: str, *, rule: str | None = None) -> dict[str, Evaluated]:
    """The arms that all folders of a pattern hold.

    Raises:
        ValueError: if they hold different questions.
    """
    folders = folders_of(pattern)
    present = [arm for arm in ARMS if all((folder / arm / SAMPLES).exists() for folder in folders)]
    arms = {arm: load(f"{pattern}/{arm}", rule=rule) for arm in present}
    for other in arms.values():
        refuse_other_questions(arms[WITH_TOOL], other)
    return arms


def _gap(a: np.ndarray, b: np.ndarray, seed: int) -> dict[str, Any]:
    """The comparison of two arms of the same training seeds [seeds, questions], paired by seed too."""
    gap = difference(a, b, seed=seed)
    if len(a) > 1:
        low, high, gap["p_value"] = crossed_interval(np.zeros((1, a.shape[1])), b - a)
        gap["interval"] = [low, high]
    return gap


def _interval(a: np.ndarray, b: np.ndarray, seed: int) -> dict[str, Any]:
    return {"interval": difference(a, b, seed=seed)["interval"]}


def _change(a: str, b: str, kept: dict[str, tuple[list[str], dict[str, np.ndarray]]], seed: int) -> dict[str, Any]:
    """From A to B: with the tool, without it, and each term, on the same questions."""
    (ids, before), (other_ids, after) = kept[a], kept[b]
    if ids != other_ids:
        raise ValueError(f"{a} and {b} hold different questions: evaluate both on the same tasks")
    changed = {name: difference(before[name], after[name], seed=seed) for name in before}
    return {
        "a": a,
        "b": b,
        **{name: {key: changed[name][key] for key in ("difference", "interval")} for name in changed},
    }


def table(result: dict[str, Any]) -> str:
    """The split as Markdown tables."""
    lines = [
        "| checkpoint | without the tool | with it | difference | 95% interval | call gain | schema gain | call harm "
        "| schema harm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["checkpoints"].items():
        gap = one["gap"]
        cells = [f"{one['terms'][term]['value']:.3f} {_span(one['terms'][term]['interval'])}" for term in SIGNS]
        numbers = f"{gap['accuracy_a']:.3f}", f"{gap['accuracy_b']:.3f}", f"{gap['difference']:+.3f}"
        lines.append(markdown_row([name, *numbers, _span(gap["interval"]), *cells]))
    lines += ["", "| checkpoint | term | mass | policy | quality |", "|---|---|---|---|---|"]
    for name, one in result["checkpoints"].items():
        for term in SIGNS:
            row = one["terms"][term]
            parts = [f"{row[key]:.3f}" for key in ("mass", "policy", "quality")]
            lines.append(markdown_row([name, term.replace("_", " "), *parts]))
    against = {SCHEMA_ONLY: "calls carried out against refused", SINGLE_PASS: "with the tool against a single pass"}
    for name, one in result["checkpoints"].items():
        for arm, gap in one["against"].items():
            lines.append(f"\n{name}: {against[arm]}: {gap['difference']:+.3f} {_span(gap['interval'])}")
    for change in result["changes"]:
        lines += [
            f"\nA = {change['a']}, B = {change['b']}\n",
            "| B - A | difference | 95% interval |",
            "|---|---|---|",
        ]
        for name in ("with", "without", *SIGNS):
            label = f"{name} the tool" if name.startswith("with") else name.replace("_", " ")
            lines.append(markdown_row([label, f"{change[name]['difference']:+.3f}", _span(change[name]["interval"])]))
    return "\n".join(lines)


def _span(interval: Sequence[float]) -> str:
    return f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"
