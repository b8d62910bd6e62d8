"""Intervals and tests for paired and unpaired accuracies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def wilson_interval(successes: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927); (0, 1) for no observations."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def best_constant(questions: Sequence[tuple[str, str]]) -> float:
    """What not looking could score: the accuracy of one answer to all questions of a family, the best for each.

    `questions` are (family, answer).

    >>> best_constant([("compare", "yes"), ("compare", "yes"), ("compare", "no"), ("read", "7")])
    0.75
    """
    most: dict[str, int] = {}
    for (family, _), count in Counter(questions).items():
        most[family] = max(count, most.get(family, 0))
    return sum(most.values()) / len(questions)


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


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test for the two counts of discordant pairs."""
    total = only_a + only_b
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1)) / 2**total
    return min(1.0, 2 * tail)
