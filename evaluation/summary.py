"""The summary of the samples of an evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, cast

from evaluation.markdown import in_all_and_by_family, markdown_row
from evaluation.mimic import pooled_f1
from fovea.runs.records import Accuracy, Sample, Summary
from fovea.statistics import best_constant, wilson_interval

POOLED: Mapping[tuple[str, str], Callable[[Sequence[Sample]], float]] = {("mimic", "listing"): pooled_f1}
"""Rules that score a group of samples as a whole, by rule and group."""
MOST_BY_RULE = 6
"""Families whose accuracies by published rules are printed too; more are in summary.json alone."""


def summarize(samples: Sequence[Sample], *, model: str = "", prompt: str = "", crops: str = "") -> Summary:
    """Accuracy, zooms and tokens, in all and by family; the other arguments say what was evaluated, and how."""
    by_family = defaultdict(list)
    for sample in samples:
        by_family[sample.family].append(sample)
    return Summary(
        **asdict(accuracy_of(samples)),
        families={family: accuracy_of(by_family[family]) for family in sorted(by_family)},
        model=model,
        prompt=prompt,
        crops=crops,
    )


def accuracy_of(samples: Sequence[Sample]) -> Accuracy:
    """The accuracy of some samples. Several samples a task are averaged; its interval counts each cluster once."""
    scores = defaultdict(list)
    for sample in samples:
        scores[sample.task_id].append(sample.score)
    clusters = defaultdict(list)
    for sample in samples:
        clusters[sample.cluster or sample.task_id].append(sample.score)
    num_right = sum(map(fmean, clusters.values()))
    questions = {sample.task_id: (sample.family, sample.constant or str(sample.reference)) for sample in samples}
    return Accuracy(
        n=len(scores),
        accuracy=fmean(map(fmean, scores.values())),
        interval=wilson_interval(round(num_right), len(clusters)),
        best_constant=best_constant(list(questions.values())),
        zooms_per_question=fmean(sample.num_zooms for sample in samples),
        zoom_rate=fmean(sample.num_zooms > 0 for sample in samples),
        tokens_per_question=fmean(sample.num_tokens for sample in samples),
        context_tokens_per_question=mean_if_known(sample.num_context_tokens for sample in samples),
        image_tokens_per_question=mean_if_known(sample.num_image_tokens for sample in samples),
        stop_reasons=dict(Counter(sample.stop_reason.value for sample in samples)),
        rules={
            rule: _official_mean([sample for sample in samples if rule in sample.scores], rule)
            for rule in dict.fromkeys(rule for sample in samples for rule in sample.scores)
        },
    )


def mean_if_known(values: Iterable[float | None]) -> float | None:
    """Their mean; None where one is not known, as tokens of endpoints' prompts, or of runs of version 0.1."""
    known = list(values)
    return None if None in known else fmean(cast("list[float]", known))


def _official_mean(samples: Sequence[Sample], rule: str) -> float:
    """A rule's accuracy; within groups first where the benchmark does so (HR-Bench: the cycles of one question).

    A rule that scores a group as a whole does that (MIMIC: the F1 of all lists).
    """
    groups: dict[Any, list[Sample]] = defaultdict(list)
    for number, sample in enumerate(samples):
        groups[number if sample.within is None else sample.within].append(sample)
    pooled = {group: pool for (name, group), pool in POOLED.items() if name == rule}
    return fmean(
        pooled[group](within) if group in pooled else fmean(sample.scores[rule] for sample in within)
        for group, within in groups.items()
    )


def table(summary: Summary) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| family | n | accuracy | 95% interval | best constant | zooms | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in in_all_and_by_family(summary, summary.families).items():
        low, high = part.interval
        numbers = f"{part.best_constant:.3f}", f"{part.zooms_per_question:.2f}", f"{part.tokens_per_question:.0f}"
        lines.append(markdown_row([name, part.n, f"{part.accuracy:.3f}", f"{low:.3f}-{high:.3f}", *numbers]))
    if summary.rules and len(summary.families) > 1:
        mean = fmean(part.accuracy for part in summary.families.values())
        lines.append(markdown_row([f"mean of the {len(summary.families)} families", "", f"{mean:.3f}", *[""] * 4]))
    parts = in_all_and_by_family(summary, summary.families if len(summary.families) <= MOST_BY_RULE else {})
    for name, part in parts.items():
        lines += [
            markdown_row([f"{name}, by {rule}", part.n, f"{accuracy:.3f}", *[""] * 4])
            for rule, accuracy in part.rules.items()
        ]
    return "\n".join(lines)
