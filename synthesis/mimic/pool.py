"""A pool of pictures with the instances in each, as arrays: what the items of MIMIC are drawn from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from fovea.boxes import UNIT_VIEW, Box, Frame
from synthesis.mimic.draws import FEW, some

SMALL = ("image", "box")
"""Treatments of an object below the smallest area: not asking about its class in its image, or not counting it."""


class AnnotationError(ValueError):
    """A mistake in a file of annotations."""


@dataclass(frozen=True)
class Instances:
    """Annotated objects of all pictures, one row each."""

    picture: np.ndarray
    """Int [I], the row of its picture."""
    kind: np.ndarray
    """Int [I], the number of its class."""
    boxes: np.ndarray
    """Float [I, 4], x1, y1, x2, y2 in UNIT of the picture, as annotated: perhaps over its edge."""
    is_crowd: np.ndarray
    """Bool [I]: a box around nobody knows how many."""

    def clipped(self) -> np.ndarray:
        return np.clip(self.boxes, 0.0, 1.0)


@dataclass(frozen=True)
class Pool:
    """Pictures, classes with their categories, and what is where.

    An instance counts if its box holds some of the picture and covers at least `min_area` of it; it counts for the
    classes above its own too, and leaves those below it in doubt: an animal may be a dog. A class is doubtful in a
    picture with a crowd of it, with a box of it that holds nothing, or (where `small` is "image") with an instance that
    is too small, and then those above and below it are: no item relies on such a class there, neither on its presence
    nor on its absence.
    """

    images: Sequence[Any]
    """One source for each picture, as `open_image` takes it."""
    names: Sequence[str]
    """The unique name of each picture where it comes from."""
    classes: Sequence[str]
    categories: Sequence[str]
    """Of each class, the category that it belongs to; empty for none."""
    instances: Instances
    min_area: float = 0.05
    small: str = "image"
    source: str = ""
    above: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Of each class those that hold it, as an animal holds a dog: whoever sees the one sees the others."""
    doubts: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Int [D, 2], pictures and classes that are doubtful for another reason."""
    absent: np.ndarray | None = None
    """Int [A, 2], pictures and classes that are known not to be there; None where all that is not annotated is not."""

    def __post_init__(self) -> None:
        if unlisted := next((name for name in self.classes if re.search(r"[,;\n]", name)), None):
            raise AnnotationError(f"class {unlisted!r} holds a separator of lists: give it another name")

    @cached_property
    def _is_counted(self) -> np.ndarray:
        boxes = self.instances.clipped()
        return (self._area(boxes) >= max(self.min_area, 1e-12)) & ~self.instances.is_crowd

    @staticmethod
    def _area(boxes: np.ndarray) -> np.ndarray:
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        return sides[:, 0] * sides[:, 1]

    @cached_property
    def _doubtful(self) -> Any:
        """Bool, sparse by class [pictures, classes]."""
        area = self._area(self.instances.clipped())
        in_doubt = self.instances.is_crowd | ~(area > 0)  # what is no number is in doubt too
        if self.small == "image":
            in_doubt |= area < self.min_area
        pairs = [np.stack([self.instances.picture[in_doubt], self.instances.kind[in_doubt]], axis=1), self.doubts]
        everywhere = self._sparse(np.concatenate(pairs), bool, up=True, down=True)
        annotated = np.stack([self.instances.picture, self.instances.kind], axis=1)
        return (everywhere + self._sparse(annotated, bool, itself=False, down=True)).astype(bool)

    @cached_property
    def _counts(self) -> Any:
        """Int, sparse by class [pictures, classes]: instances that count, also where there may be more."""
        kept = self._is_counted
        return self._sparse(
            np.stack([self.instances.picture[kept], self.instances.kind[kept]], axis=1), np.int32, up=True
        )

    @cached_property
    def _may_be(self) -> Any:
        """Bool, sparse by class: True if the class is in the picture, or may be."""
        return ((self._counts > 0) + self._doubtful).astype(bool).tocsc()

    @cached_property
    def _by_picture(self) -> Any:
        return self._may_be.tocsr()

    @cached_property
    def _absent(self) -> Any:
        assert self.absent is not None
        return self._sparse(self.absent, bool, down=True)

    @cached_property
    def num_possible(self) -> np.ndarray:
        """Int [pictures]: classes that are there, or perhaps are."""
        return np.diff(self._by_picture.indptr)

    def _sparse(
        self, pairs: np.ndarray, dtype: Any, *, itself: bool = True, up: bool = False, down: bool = False
    ) -> Any:
        """Pairs of picture and class as a sparse matrix that counts them, of the class itself and those above or below
        it."""
        found = [pairs] if itself else [pairs[:0]]
        if self.above and (up or down):
            related: dict[int, set[int]] = defaultdict(set)
            for kind, holders in self.above.items():
                for holder in holders:
                    if up:
                        related[kind].add(holder)
                    if down:
                        related[holder].add(kind)
            for kind, others in related.items():
                of_kind = pairs[pairs[:, 1] == kind, 0]
                found += [np.stack([of_kind, np.full_like(of_kind, other)], axis=1) for other in others]
        pairs = np.concatenate(found)
        shape = len(self.images), len(self.classes)
        counted = coo_array((np.ones(len(pairs), np.int32), (pairs[:, 0], pairs[:, 1])), shape=shape).tocsc()
        counted.sort_indices()
        return counted.astype(dtype)

    def usable(self) -> np.ndarray:
        """The classes that some picture certainly shows."""
        return np.array([kind for kind in range(len(self.classes)) if len(self.showing([kind])[0])], np.int64)

    def showing(self, kinds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures [R] that show one of the classes, and their counts [R, kinds]; none where one is in doubt."""
        key = tuple(kinds)
        if key not in self._showing:
            columns = [_column(self._counts, kind) for kind in kinds]
            rows = np.unique(np.concatenate([found for found, _ in columns]))
            rows = np.setdiff1d(rows, self._rows(self._doubtful, kinds), assume_unique=True)
            counts = np.zeros((len(rows), len(kinds)), np.int64)
            for place, (found, values) in enumerate(columns):
                is_kept = np.isin(found, rows, assume_unique=True)
                counts[np.searchsorted(rows, found[is_kept]), place] = values[is_kept]
            if len(kinds) > 1:  # there are too many pairs of classes to keep them all
                return rows, counts
            self._showing[key] = rows, counts
        return self._showing[key]

    @cached_property
    def _showing(self) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
        return {}

    def surely_without(self, rows: np.ndarray, kind: int) -> np.ndarray:
        """The pictures among `rows` that surely do not show a class; all of them if the pool knows no absences."""
        return rows if self.absent is None else np.intersect1d(rows, _column(self._absent, kind)[0])

    def perhaps(self, kinds: Sequence[int]) -> np.ndarray:
        """Pictures that show one of the classes, or may."""
        return self._rows(self._may_be, kinds)

    def possible(self, picture: int) -> set[int]:
        """The classes that a picture shows, or may."""
        return set(_row(self._by_picture, picture).tolist())

    def count_in(self, picture: int, kinds: Sequence[int]) -> list[int]:
        """The number of countable instances of each class in a picture."""
        columns = [_column(self._counts, kind) for kind in kinds]
        return [int(values[rows == picture].sum()) for rows, values in columns]

    def listed(self) -> np.ndarray:
        """The classes of which lists can be asked: of a category by name, two of whose classes can be shown.

        A class that holds others is not among them: no list with it would be the only right one.
        """
        usable = set(self.usable().tolist())
        mates = [usable.intersection(self.members(name)) if name else set() for name in self.categories]
        found = [kind for kind in sorted(usable) if kind in mates[kind] and len(mates[kind]) > 1]
        return np.array(found, np.int64)

    def members(self, category: str) -> list[int]:
        """The classes of a category that hold no others: those below the class of its name, or those that name it."""
        holders = {holder for held in self.above.values() for holder in held}
        below = [kind for kind, held in self.above.items() if category in {self.classes[one] for one in held}]
        named = [kind for kind, name in enumerate(self.categories) if name == category]
        return sorted({*below, *named} - holders)

    def possible_of(self, category: str) -> np.ndarray:
        """Int [pictures]: how many members of a category are there, or perhaps are."""
        if category not in self._of_category:
            mates = self.members(category)
            found = np.concatenate([_column(self._may_be, kind)[0] for kind in mates])
            self._of_category[category] = np.bincount(found, minlength=len(self.images)).astype(np.int16)
        return self._of_category[category]

    @cached_property
    def _of_category(self) -> dict[str, np.ndarray]:
        return {}

    def without(
        self, kinds: Sequence[int], count: int, rng: np.random.Generator, *, category: str | None = None
    ) -> np.ndarray | None:
        """`count` different pictures that show none of the classes; for fewer, the first of those for more.

        Nor do they show others of a `category`. Where it is known what is not there, it is known of the classes.
        """
        clear = None
        if self.absent is not None:
            clear = reduce(np.intersect1d, [_column(self._absent, kind)[0] for kind in kinds])
        elif len(self.images) < FEW:
            clear = np.arange(len(self.images))
        if clear is not None:
            clear = np.setdiff1d(clear, self.perhaps(kinds), assume_unique=True)
            clear = clear if category is None else clear[self.possible_of(category)[clear] == 0]
            return some(rng, clear, count) if len(clear) >= count else None
        chosen: dict[int, None] = {}
        for _ in range(1000 + 100 * count):
            if len(chosen) == count:
                break
            picture = int(rng.integers(len(self.images)))
            is_clear = category is None or self.possible_of(category)[picture] == 0
            if is_clear and not self.possible(picture).intersection(kinds):
                chosen[picture] = None
        return np.array(list(chosen), np.int64) if len(chosen) == count else None

    def _rows(self, matrix: Any, kinds: Sequence[int]) -> np.ndarray:
        return np.unique(np.concatenate([_column(matrix, kind)[0] for kind in kinds]))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Counted instances by picture, and where those of each picture begin."""
        rows = np.flatnonzero(self._is_counted)
        rows = rows[np.argsort(self.instances.picture[rows], kind="stable")]
        return rows, np.searchsorted(self.instances.picture[rows], np.arange(len(self.images) + 1))

    def boxes(self, picture: int, kinds: Sequence[int]) -> list[Box]:
        """The boxes of the counted instances of some classes, or of those below them, in UNIT of a picture."""
        rows, starts = self._order
        here = rows[starts[picture] : starts[picture + 1]]
        wanted = {*kinds, *(kind for kind, holders in self.above.items() if set(holders) & set(kinds))}
        return [
            Box.of(map(float, self.instances.boxes[row]), Frame.UNIT).clipped(UNIT_VIEW)
            for row in here
            if int(self.instances.kind[row]) in wanted
        ]


def _column(matrix: Any, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a column of a matrix that is sparse by column, ascending, and its values there."""
    part = slice(matrix.indptr[kind], matrix.indptr[kind + 1])
    return matrix.indices[part], matrix.data[part]


def _row(matrix: Any, picture: int) -> np.ndarray:
    return matrix.indices[matrix.indptr[picture] : matrix.indptr[picture + 1]]
