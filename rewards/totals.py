"""What several rewards come to: the weighted sum of a rollout, and its advantage in its group, as TRL computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weighted_totals(paid: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted sums [episodes] of payments [rewards, episodes].

    A reward that does not apply (NaN) adds nothing; where none applies the sum is NaN.

    >>> weighted_totals(np.array([[1.0, 0.0, np.nan], [0.5, np.nan, np.nan]]), [0.9, 0.1])
    array([0.95, 0.  ,  nan])
    """
    sums = np.nansum(paid * np.array(weights)[:, None], axis=0)
    return np.where(np.isnan(paid).all(axis=0), np.nan, sums)


def advantages(rewards: np.ndarray, *, spread: float | None = None, scales: bool = True) -> np.ndarray:
    """Rewards of a group less their mean, over `spread` or else their own standard deviation.

    Without `scales` they are not divided. Unscorable rollouts (NaN) get 0.
    """
    known = rewards[~np.isnan(rewards)]
    if len(known) < 2:
        return np.zeros_like(rewards)
    centred = rewards - known.mean()
    if scales:
        centred = centred / ((known.std(ddof=1) if spread is None else spread) + 1e-4)
    return np.nan_to_num(centred)
