"""Draws that can be made again: even, nested, and each from a generator of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FEW = 4096
"""Rows that are permuted as a whole to draw some of them."""


def some(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """`count` different rows; for a smaller count the first of those for a larger one."""
    if len(rows) < FEW:
        return rng.permutation(rows)[:count]
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen[int(rows[rng.integers(len(rows))])] = None
    return np.array(list(chosen), np.int64)


class Streams:
    """A generator for each thing that is drawn, so that one draw does not move another."""

    NAMES = ("shows", "others", "order", "between", "words")

    def __init__(self, key: tuple[int, ...]) -> None:
        self.key = key

    def of(self, name: str) -> np.random.Generator:
        return np.random.default_rng([*self.key, self.NAMES.index(name)])


def evenly(size: int, *key: int) -> int:
    """Of `size` values the one for number `key[-1]`: each once in every `size` numbers, in an order drawn anew."""
    block, place = divmod(key[-1], size)
    return int(np.random.default_rng([*key[:-1], block, size]).permutation(size)[place])


def adding_up(
    by_count: Mapping[int, np.ndarray], total: int, number: int, rng: np.random.Generator
) -> np.ndarray | None:
    """`number` different rows whose counts add up to `total`; None if this draw found none."""
    chosen: list[int] = []
    for left in range(number - 1, -1, -1):
        counts = [count for count in by_count if (count == total if left == 0 else count <= total - left)]
        if not counts:
            return None
        count = counts[rng.integers(len(counts))]
        row = int(by_count[count][rng.integers(len(by_count[count]))])
        if row in chosen:
            return None
        chosen.append(row)
        total -= count
    return np.array(chosen, np.int64)


def covering(is_there: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray | None:
    """`number` different rows of [rows, classes], of which some show each class; None if this draw found none."""
    having = [np.flatnonzero(column) for column in is_there.T]
    if not all(map(len, having)):
        return None
    chosen = list(dict.fromkeys(int(rng.choice(rows)) for rows in having))
    if len(chosen) > number:
        return None
    rest = [int(row) for row in some(rng, np.arange(len(is_there)), number) if row not in chosen]
    return np.array((chosen + rest)[:number], np.int64)
