"""Connected paths through related images, along which questions are asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

Path = tuple[str, ...]


def sample_paths(
    edges: Sequence[tuple[str, str]], number: int, lengths: Sequence[int], *, seed: int, max_uses: int = 3
) -> list[Path]:
    """At most `number` different paths of images, none twice in one; no edge is on more than `max_uses` of them.

    `lengths` are numbers of images; each is drawn as often as the others, as far as the graph allows.
    """
    neighbours: dict[str, list[str]] = defaultdict(list)
    for first, second in edges:
        neighbours[first].append(second)
        neighbours[second].append(first)
    rng = np.random.default_rng(seed)
    uses: dict[frozenset[str], int] = defaultdict(int)
    found: dict[frozenset[frozenset[str]], Path] = {}
    starts = sorted(neighbours)
    failures = 0
    while starts and len(found) < number and failures < 200 + 20 * len(starts):
        path = _walk(starts[rng.integers(len(starts))], int(rng.choice(list(lengths))), neighbours, uses, max_uses, rng)
        steps = frozenset(frozenset(pair) for pair in pairwise(path))
        if len(path) not in lengths or steps in found:
            failures += 1
            continue
        found[steps] = path
        for step in steps:
            uses[step] += 1
    return list(found.values())


def _walk(
    start: str, length: int, neighbours: Mapping[str, Sequence[str]], uses: Mapping[frozenset[str], int], max_uses: int,
    rng: np.random.Generator,
) -> Path:  # fmt: skip
    path = [start]
    while len(path) < length:
        here = path[-1]
        ways = [other for other in neighbours[here]
                if other not in path and uses.get(frozenset((here, other)), 0) < max_uses]  # fmt: skip
        if not ways:
            break
        path.append(ways[rng.integers(len(ways))])
    return tuple(path)
