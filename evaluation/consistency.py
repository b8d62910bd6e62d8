"""Does the answer stay where only the order changes? `fovea analyse consistency EVALUATION [EVALUATION …]`.

The evaluations are of `fovea tasks varied`: tasks, and behind them the same with images or options in another order,
or with one image more. Of each kind of variant: how often the answer is the same as before (of options, the same option
whatever its letter), accuracy before and after, and the difference, paired by question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from evaluation.analysing import analyse
from evaluation.evaluated import difference
from evaluation.markdown import markdown_row
from evaluation.stored import StoredRun
from fovea.answers import constant_of
from fovea.answers.text import normalized
from fovea.runs.records import Sample
from fovea.statistics import wilson_interval
from fovea.tasks import Task

VARIANT = "variant"
"""In the metadata of a variant: `kind`, and `of`, the id of the task that it varies."""


@dataclass(frozen=True)
class Consistency:
    """Of `n` variants: how many answers are the same, and accuracy before and after with 95% intervals."""

    n: int
    same: int
    same_interval: tuple[float, float]
    accuracy_before: float
    accuracy_after: float
    interval: tuple[float, float]
    """Of accuracy after less accuracy before, paired by question."""


def meaning(task: Task, sample: Sample) -> str:
    """The text of an answer, without the letter of its option; "" if there is no answer."""
    answer = sample.answer or ""
    letter = constant_of(task, answer)
    options = dict(zip(ascii_uppercase, task.choices, strict=False))
    return normalized(options.get(letter, answer))


def consistency(run: StoredRun) -> dict[str, Consistency]:
    """By kind of variant, and by kind and family.

    Raises:
        ValueError: if nothing in it is a variant, or one was played without the task that it is a variant of.
    """
    samples = {(sample.task_id, sample.sample): sample for sample in run.samples}
    pairs: dict[str, list[tuple[str, bool, float, float]]] = defaultdict(list)
    for (_, number), sample in samples.items():
        task = run.task(sample)
        variant = task.metadata.get(VARIANT)
        if variant is None:
            continue
        before = samples.get((variant["of"], number))
        if before is None:
            raise ValueError(f"{run.path} holds {task.id} without {variant['of']}: play both, without --max_tasks")
        same = meaning(run.task(before), before) == meaning(task, sample) and sample.answer is not None
        for group in (variant["kind"], f"{variant['kind']}, {task.family}"):
            pairs[group].append((variant["of"], same, before.score, sample.score))
    if not pairs:
        raise ValueError(f"{run.path} holds no variant: play tasks of `fovea tasks varied`")
    return {group: _consistency(pairs[group]) for group in sorted(pairs)}


def _consistency(pairs: list[tuple[str, bool, float, float]]) -> Consistency:
    """Samples of one question count as one question in both intervals."""
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for id, _, before, after in pairs:
        scores[id].append((before, after))
    means = np.array([np.mean(of_one, axis=0) for of_one in scores.values()])
    found = difference(means[None, :, 0], means[None, :, 1], seed=0)
    same = sum(is_same for _, is_same, _, _ in pairs)
    low, high = found["interval"]
    same_interval = wilson_interval(same * len(scores) / len(pairs), len(scores))
    return Consistency(len(pairs), same, same_interval, found["accuracy_a"], found["accuracy_b"], (low, high))


def table(runs: Mapping[str, Mapping[str, Consistency]]) -> str:
    """As a Markdown table."""
    lines = [
        "| evaluation | variants | n | same answer | accuracy before | after | after - before | 95% interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        for group, one in found.items():
            same = f"{one.same / one.n:.3f} [{one.same_interval[0]:.3f}, {one.same_interval[1]:.3f}]"
            accuracies = f"{one.accuracy_before:.3f}", f"{one.accuracy_after:.3f}"
            change = f"{one.accuracy_after - one.accuracy_before:+.3f}"
            low, high = one.interval
            lines.append(markdown_row([name, group, one.n, same, *accuracies, change, f"{low:+.3f} to {high:+.3f}"]))
    return "\n".join(lines)


def main() -> None:
    analyse(__doc__, consistency, table)


if __name__ == "__main__":
    main()
