"""Totals of several rewards as TRL computes them: the weighted sum of a rollout, and its advantage in its group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np


def weighted_totals(paid: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted sums [episodes] of payments [rewards, episodes].

    A reward that does not apply (NaN) adds nothing; where none applies the sum is NaN.

    >>> weighted_totals(np.array([[1.0, 0.0, np.nan], [0.5, np.nan, np.nan]]), [0.9, 0.1])
    array([0.95, 0.  ,  nan])
    """
    sums = np.nansum(paid * np.array(weights)[:, None], axis=0)
    return np.where(np.isnan(paid).all(axis=0), np.nan, sums)


def advantages(
    groups: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    steps: Sequence[Any] | None = None,
) -> list[np.ndarray]:
    """Advantages [episodes] of groups that were paid [rewards, episodes].

    `scale_rewards` and `aggregation` (`multi_objective_aggregation`) are TRL's. A batch is the groups of one of
    `steps`. Rollouts that no reward scores get 0.
    """
    steps = list(steps or [None] * len(groups))
    if aggregation == "normalize_then_sum":
        totals = [weighted_totals(np.array([_normalized(row) for row in paid]), weights) for paid in groups]
        scale_rewards = "batch"
    else:
        totals = [weighted_totals(paid, weights) for paid in groups]
    batches: dict[Any, list[np.ndarray]] = defaultdict(list)
    for step, row in zip(steps, totals, strict=True):
        batches[step].append(row)
    of_batch = {step: _spread(np.concatenate(rows)) for step, rows in batches.items()}
    spreads = {
        "group": map(_spread, totals),
        "batch": (of_batch[step] for step in steps),
        "none": [1.0] * len(totals),
    }[scale_rewards]
    epsilon = 0.0 if scale_rewards == "none" else 1e-4
    return [np.nan_to_num(_centred(row) / (spread + epsilon)) for row, spread in zip(totals, spreads, strict=True)]


def _normalized(row: np.ndarray) -> np.ndarray:
    return _centred(row) / (_spread(row) + 1e-4)


def _centred(values: np.ndarray) -> np.ndarray:
    """Less the mean of those that are known."""
    return values - np.nanmean(values) if _known(values).size else values


def _spread(values: np.ndarray) -> float:
    """The sample standard deviation of those that are known, 0 of fewer than two."""
    known = _known(values)
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
