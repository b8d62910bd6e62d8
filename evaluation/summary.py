"""What the samples of an evaluation come to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from fovea.runs.records import Accuracy, Sample, Summary
from fovea.statistics import best_constant, wilson_interval


def summarize(samples: Sequence[Sample], *, model: str = "", prompt: str = "", crops: str = "") -> Summary:
    """Accuracy, zooms and tokens, in all and by family; the other arguments say what was evaluated, and how."""
    by_family = defaultdict(list)
    for sample in samples:
        by_family[sample.family].append(sample)
    return Summary(
        **asdict(accuracy_of(samples)),
        rules={rule: _official_mean(samples, rule) for rule in samples[0].scores},
        families={family: accuracy_of(by_family[family]) for family in sorted(by_family)},
        model=model,
        prompt=prompt,
        crops=crops,
    )


def accuracy_of(samples: Sequence[Sample]) -> Accuracy:
    """The accuracy of some samples. Several samples a task are averaged."""
    scores = defaultdict(list)
    for sample in samples:
        scores[sample.task_id].append(sample.score)
    num_right = sum(map(fmean, scores.values()))
    questions = {sample.task_id: (sample.family, str(sample.reference)) for sample in samples}
    return Accuracy(
        n=len(scores),
        accuracy=num_right / len(scores),
        interval=wilson_interval(round(num_right), len(scores)),
        best_constant=best_constant(list(questions.values())),
        zooms_per_question=fmean(sample.num_zooms for sample in samples),
        zoom_rate=fmean(sample.num_zooms > 0 for sample in samples),
        tokens_per_question=fmean(sample.num_tokens for sample in samples),
        context_tokens_per_question=fmean(sample.context_tokens for sample in samples),
        image_tokens_per_question=image_tokens(samples),
        stop_reasons=dict(Counter(sample.stop_reason.value for sample in samples)),
    )


def image_tokens(samples: Sequence[Sample]) -> float | None:
    """Mean visual tokens of an episode; None where some are not known, as in runs of version 0.1."""
    counts = [sample.num_image_tokens for sample in samples if sample.num_image_tokens is not None]
    return fmean(counts) if len(counts) == len(samples) else None


def _official_mean(samples: Sequence[Sample], rule: str) -> float:
    """A rule's accuracy; within groups first where the benchmark does so (HR-Bench: the cycles of one question)."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for number, sample in enumerate(samples):
        groups[number if sample.within is None else sample.within].append(sample.scores[rule])
    return fmean(map(fmean, groups.values()))


def table(summary: Summary) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| family | n | accuracy | 95% interval | best constant | zooms | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in {"all": summary, **summary.families}.items():
        low, high = part.interval
        numbers = f"{part.best_constant:.3f} | {part.zooms_per_question:.2f} | {part.tokens_per_question:.0f}"
        lines.append(f"| {name} | {part.n} | {part.accuracy:.3f} | {low:.3f}-{high:.3f} | {numbers} |")
    for rule, accuracy in summary.rules.items():
        lines.append(f"| all, by {rule} | {summary.n} | {accuracy:.3f} | | | | |")
    return "\n".join(lines)
