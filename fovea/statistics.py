"""Intervals and tests for paired and unpaired accuracies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def wilson_interval(successes: float, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927); (0, 1) for no observations."""
    if total == 0:
        return 0.0, 1.0
    proportion = successes / total
    centre = (proportion + z * z / (2 * total)) / (1 + z * z / total)
    half_width = (
        z / (1 + z * z / total) * math.sqrt(proportion * (1 - proportion) / total + z * z / (4 * total * total))
    )
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def best_constant(questions: Sequence[tuple[str, str]]) -> float:
    """Accuracy without looking: one fixed answer for all questions of a family, the best for each family.

    `questions` are (family, answer).

    >>> best_constant([("compare", "yes"), ("compare", "yes"), ("compare", "no"), ("read", "7")])
    0.75
    """
    highest_counts: dict[str, int] = {}
    for (family, _), count in Counter(questions).items():
        highest_counts[family] = max(count, highest_counts.get(family, 0))
    return sum(highest_counts.values()) / len(questions)


def paired_bootstrap(
    differences: np.ndarray, *, seed: int = 0, num_samples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of paired differences [n]; the same for the same seed."""
    rng = np.random.default_rng(seed)
    values, counts = np.unique(differences, return_counts=True)
    draws = rng.multinomial(len(differences), counts / len(differences), size=num_samples)
    means = draws @ values / len(differences)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def crossed_interval(a: np.ndarray, b: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Interval of mean(b) - mean(a) and its two-sided p-value, over questions and over training seeds.

    `a` [seeds, questions] and `b` [seeds, questions] hold scores of the same questions; seeds of one are not paired
    with those of the other. The variance of the difference is that of its question means, less what these owe to single
    answers, plus for each side that of its seed means, which holds it already (a two-way random-effects analysis
    without replication); degrees of freedom by Satterthwaite (1946). Where nothing varies it is that of as many pairs
    of single answers, and no point.
    """
    from scipy import stats

    difference = float(b.mean() - a.mean())
    num_questions = a.shape[1]
    multi_seed_scores = [scores for scores in (a, b) if len(scores) > 1]
    question_variance = float((b.mean(0) - a.mean(0)).var(ddof=1)) - sum(
        _noise(scores) / len(scores) for scores in multi_seed_scores
    )
    variance_parts = [(max(0.0, question_variance) / num_questions, num_questions - 1)]
    variance_parts += [
        (float(scores.mean(1).var(ddof=1)) / len(scores), len(scores) - 1) for scores in multi_seed_scores
    ]
    variance = sum(part for part, _ in variance_parts)
    if variance == 0:
        changed = round(abs(difference) * num_questions)
        gained, lost = (changed, 0) if difference > 0 else (0, changed)
        return *paired_interval(lost, gained, num_questions), mcnemar(lost, gained)
    degrees_of_freedom = variance**2 / sum(part**2 / degrees for part, degrees in variance_parts)
    half_width = float(stats.t.ppf(0.5 + level / 2, degrees_of_freedom)) * math.sqrt(variance)
    p_value = 2 * float(stats.t.sf(abs(difference) / math.sqrt(variance), degrees_of_freedom))
    return max(-1.0, difference - half_width), min(1.0, difference + half_width), p_value


def _noise(scores: np.ndarray) -> float:
    """The variance of single answers in `scores` [seeds, questions] that neither seed nor question explains."""
    residual = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    return float((residual**2).sum()) / ((scores.shape[0] - 1) * (scores.shape[1] - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being many (Holm 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that one of `k` samples is right, of `num_samples` of which `num_correct` are (Chen et al. 2021).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4), pass_at_k(4, 0, 4)
    (0.25, 1.0, 0.0)
    """
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def paired_interval(lost: int, gained: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """95% interval of the difference of two paired proportions (adjusted Wald, Bonett and Price 2012).

    Of `total` pairs `gained` went from wrong to right and `lost` the other way. Unlike the bootstrap it holds its level
    when few pairs differ, and is no point when none does.
    """
    lost_share, gained_share = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    half_width = z * math.sqrt((lost_share + gained_share - (gained_share - lost_share) ** 2) / (total + 2))
    return max(-1.0, gained_share - lost_share - half_width), min(1.0, gained_share - lost_share + half_width)


def sign_flip(differences: np.ndarray, *, seed: int = 0, num_samples: int = 10_000) -> float:
    """Two-sided p-value of paired differences [n] whose signs might as well be turned (a permutation test)."""
    rng = np.random.default_rng(seed)
    values, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(values):
        return 1.0
    flipped_sums = (2 * rng.binomial(counts, 0.5, size=(num_samples, len(counts))) - counts) @ values
    return float((1 + (np.abs(flipped_sums) >= abs(differences.sum()) - 1e-9).sum()) / (num_samples + 1))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test for the two counts of discordant pairs."""
    total = only_a + only_b
    if total == 0:
        return 1.0
    tail_probability = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1)) / 2**total
    return min(1.0, 2 * tail_probability)
