"""Connected paths through related images, along which questions are asked."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise

import numpy as np

from fovea.data.identity import digest

Path = tuple[str, ...]
Edge = tuple[str, str]


def sample_paths(
    edges: Sequence[Edge], number: int, lengths: Sequence[int], *, seed: int, max_uses: int = 3
) -> list[Path]:
    """At most `number` different paths of images, none twice in one; no edge is on more than `max_uses` of them.

    `lengths` are numbers of images. What is drawn from an edge depends on the edges near it alone, so that a graph with
    one edge more or less has nearly the same paths.
    """
    neighbours: dict[str, set[str]] = defaultdict(set)
    for first, second in edges:
        neighbours[first].add(second)
        neighbours[second].add(first)
    uses: dict[frozenset[str], int] = defaultdict(int)
    found: dict[frozenset[frozenset[str]], Path] = {}
    for turn in range(max_uses):
        for edge in sorted(edges, key=lambda edge: digest([seed, turn, edge])):
            path = _walk(edge, neighbours, uses, max_uses, lengths, rng_of(seed, turn, edge))
            steps = frozenset(map(frozenset, pairwise(path)))
            if len(found) < number and len(path) in lengths and steps not in found:
                found[steps] = path
                for step in steps:
                    uses[step] += 1
    return list(found.values())


def rng_of(*values: object) -> np.random.Generator:
    """A generator for these values, the same wherever it is asked for."""
    return np.random.default_rng(int(digest(values), 16))


def _walk(
    edge: Edge, neighbours: Mapping[str, Set[str]], uses: Mapping[frozenset[str], int], max_uses: int,
    lengths: Sequence[int], rng: np.random.Generator,
) -> Path:  # fmt: skip
    """A path that begins with an edge; each step goes to the neighbour whose hash is least for this path."""
    path = list(edge) if rng.random() < 0.5 else [*edge][::-1]
    if uses.get(frozenset(edge), 0) >= max_uses:
        return ()
    length, salt = int(rng.choice(list(lengths))), int(rng.integers(2**31))
    while len(path) < length:
        here = path[-1]
        ways = [other for other in neighbours[here]
                if other not in path and uses.get(frozenset((here, other)), 0) < max_uses]  # fmt: skip
        if not ways:
            break
        path.append(min(ways, key=lambda other: digest([salt, other])))
    return tuple(path)


def strangers(
    path: Path, pictures: Sequence[str], neighbours: Mapping[str, Set[str]], number: int, rng: np.random.Generator
) -> list[str]:
    """Pictures that are related to none of a path; `pictures` are hex hashes in ascending order.

    Each is the first one behind a place that is drawn, so that a pool with one picture more gives nearly the same.
    """
    near = set(path).union(*(neighbours.get(picture, ()) for picture in path))
    found: list[str] = []
    for _ in range(20 * number):
        other = pictures[bisect_left(pictures, rng.bytes(8).hex()) % len(pictures)]
        if len(found) < number and other not in near and other not in found:
            found.append(other)
    return found
