"""The items of MIMIC (arXiv 2601.07812): counting, listing, the common class, the odd one out, over several pictures.

Classes and answers are drawn first, evenly; then pictures that make them true. Every draw has a generator of its own,
so that one axis can move alone: with more distractors an item keeps its pictures, their order and its words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fovea.chains import Step
from fovea.tasks import AnswerKind
from synthesis.mimic import questions
from synthesis.mimic.draws import Streams, adding_up, covering, evenly, some
from synthesis.mimic.item import Axes, Item
from synthesis.mimic.pool import Pool

MAX_DRAWS = 200
"""Draws of pictures for one item, before its classes are drawn anew."""
MAX_CLASSES_DRAWN = 20
"""Draws of classes for one item, before it is given up."""


class CannotDraw(ValueError):
    """The reason that the pool has no such item."""


@dataclass(frozen=True)
class Drawer:
    """Draws items from a pool; the same item for the same seed, number and axes."""

    pool: Pool
    seed: int

    def draw(self, kind: str, number: int, series: Sequence[Axes]) -> list[Item]:
        """Item `number` of a kind, once for each of some axes, of the same classes.

        Raises:
            CannotDraw: if the pool's pictures do not make them all.
        """
        make: Callable[[Sequence[int], Axes, Streams], _Drawn | None] = getattr(self, f"_{kind}")
        for turn, order in zip(range(MAX_CLASSES_DRAWN), self._classes(kind, number), strict=False):
            streams = Streams((self.seed, KINDS.index(kind), number, turn))
            items = []
            for axes in series:
                classes = self._apart(order, axes.num_classes) if kind in ("counting", "listing") else order
                drawn = make(classes, axes, streams) if len(classes) >= axes.num_classes else None
                if drawn is None:
                    break
                items.append(self._item(kind, number, axes, streams, drawn))
            else:
                return items
        raise CannotDraw(f"no {kind} in {len(self.pool.images)} pictures with {' and '.join(map(str, series))}")

    def _item(self, kind: str, number: int, axes: Axes, streams: Streams, drawn: _Drawn) -> Item:
        shown = [*drawn.shows, *drawn.others]
        # Keys of the pictures that show it come first: they keep their order whatever stands beside them.
        keys = [*streams.of("order").random(len(drawn.shows)), *streams.of("between").random(len(drawn.others))]
        order = [shown[place] for place in np.argsort(keys, kind="stable")]
        templates = _TEMPLATES[kind]
        template = templates[streams.of("words").integers(len(templates))]
        names = [self.pool.classes[one] for one in drawn.classes]
        category = self.pool.categories[drawn.classes[0]]
        words = {"kinds": questions.listed(names), "either": questions.listed(names, "or"), "category": category}
        pictures = tuple(map(int, order))
        is_one = kind != "listing" and len(drawn.answer) == 1
        answer = axes.total if kind == "counting" else drawn.answer[0] if is_one else drawn.answer
        steps = tuple(self._steps(kind, pictures, drawn, words))
        return Item(
            kind, pictures, tuple(drawn.classes), template.format(**words), answer, _ANSWERS[kind], steps, axes,
            (self.seed, number),
        )  # fmt: skip

    def _steps(self, kind: str, pictures: Sequence[int], drawn: _Drawn, words: Mapping[str, str]) -> Iterator[Step]:
        """A sub-question for each picture that shows it; the few, or all, where a class is asked for."""
        shows = [number for number, picture in enumerate(pictures) if picture in drawn.shows]
        if kind in ("common", "odd"):
            yield Step(_TEMPLATES[kind][0], tuple(shows), drawn.answer[0])
            return
        for number in shows:
            here = self.pool.count_in(pictures[number], drawn.classes)
            if kind == "counting":
                ask = questions.COUNT_IN_ONE.format(number=number, **words)
                yield Step(ask, (number,), str(sum(here)))
            else:
                ask = questions.LIST_OF_ONE.format(number=number, **words)
                found = [self.pool.classes[one] for one, count in zip(drawn.classes, here, strict=True) if count]
                yield Step(ask, (number,), ", ".join(found))

    def _classes(self, kind: str, number: int) -> Iterator[tuple[int, ...]]:
        """Orders of the classes that some picture shows; the first ones are even over the items, the rest is random.

        An item asks about the first of them, or the first few; for a list, all are of one category.
        """
        rng = np.random.default_rng([self.seed, KINDS.index(kind), number])
        usable, categories = self._listed if kind == "listing" else self.usable, self.pool.categories
        if not len(usable):
            return
        first = int(usable[evenly(len(usable), self.seed, KINDS.index(kind), number)])
        while True:
            others = [one for one in usable if one != first]
            if kind == "listing":
                mates = self.pool.members(categories[first])
                others = [one for one in others if one in mates]
            yield (first, *map(int, rng.permutation(others)))
            first = int(rng.choice(usable))

    def _apart(self, order: Sequence[int], number: int) -> list[int]:
        """The first so many of these classes that share no instance: a dog is no second animal."""
        chosen: list[int] = []
        for kind in order:
            if len(chosen) < number and not any(self._are_related(kind, other) for other in chosen):
                chosen.append(kind)
        return chosen

    def _are_related(self, kind: int, other: int) -> bool:
        """Returns True if one class holds the other, or both hold a third."""
        return other in self._related[kind]

    @cached_property
    def _related(self) -> dict[int, set[int]]:
        related: dict[int, set[int]] = defaultdict(set)
        for kind, holders in self.pool.above.items():
            for one in (kind, *holders):
                related[one] |= {kind, *holders}
        return related

    @cached_property
    def _listed(self) -> np.ndarray:
        return self.pool.listed()

    @cached_property
    def usable(self) -> np.ndarray:
        """The classes that are asked about."""
        usable = self.pool.usable()
        if len(usable) < 2:
            raise ValueError(f"the pool's pictures show {len(usable)} classes: give pictures of two or more")
        return usable

    def _counting(self, classes: Sequence[int], axes: Axes, streams: Streams) -> _Drawn | None:
        """Pictures whose instances add up to the total, each class among them, and pictures without any of them."""
        rows, counts = self.pool.showing(classes)
        for place, kind in enumerate(classes):  # a count of 0 has to be sure, too
            kept = (counts[:, place] > 0) | np.isin(rows, self.pool.surely_without(rows, kind))
            rows, counts = rows[kept], counts[kept]
        sums = counts.sum(axis=1)
        by_count = {int(count): np.flatnonzero(sums == count) for count in np.unique(sums[sums <= axes.total])}
        rng = streams.of("shows")
        for _ in range(MAX_DRAWS):
            chosen = adding_up(by_count, axes.total, axes.spread, rng)
            if chosen is not None and counts[chosen].any(axis=0).all():
                return self._with_others(classes, rows[chosen], axes.distractors, [str(axes.total)], streams)
        return None

    def _listing(self, classes: Sequence[int], axes: Axes, streams: Streams) -> _Drawn | None:
        """Pictures that show exactly these classes of their category, and pictures that show none of it."""
        category = self.pool.categories[classes[0]]
        rows, counts = self.pool.showing(classes)
        is_sure = self.pool.possible_of(category)[rows] == (counts > 0).sum(axis=1)
        rows, counts = rows[is_sure], counts[is_sure]
        rng = streams.of("shows")
        for _ in range(MAX_DRAWS if len(rows) >= axes.spread else 0):
            chosen = covering(counts > 0, axes.spread, rng)
            if chosen is not None:
                answer = [self.pool.classes[one] for one in classes]
                return self._with_others(classes, rows[chosen], axes.distractors, answer, streams, category=category)
        return None

    def _common(self, classes: Sequence[int], axes: Axes, streams: Streams) -> _Drawn | None:
        """Pictures that all show one class, and certainly no second one but those that hold it."""
        kind = classes[0]
        rows, _ = self.pool.showing([kind])
        rng = streams.of("shows")
        for _ in range(MAX_DRAWS if len(rows) >= axes.spread else 0):
            shows = some(rng, rows, axes.spread)
            shared = set.intersection(*map(self.pool.possible, shows))
            if shared <= {kind, *self.pool.above.get(kind, ())}:
                return _Drawn((kind,), tuple(map(int, shows)), (), self._names_of(kind, shared))
        return None

    def _odd(self, classes: Sequence[int], axes: Axes, streams: Streams) -> _Drawn | None:
        """A few pictures that show one class, more that show another one instead, and nothing else in any."""
        odd, usual = classes[:2]
        with_odd, with_usual = ({kind, *self.pool.above.get(kind, ())} for kind in (odd, usual))
        if self._are_related(odd, usual):
            return None
        few, many = self.pool.surely_without(self._only(odd), usual), self.pool.surely_without(self._only(usual), odd)
        if len(few) < axes.spread or len(many) < axes.distractors:
            return None
        shows = some(streams.of("shows"), few, axes.spread)
        others = some(streams.of("others"), many, axes.distractors)
        names = self._names_of(odd, with_odd - with_usual)
        return _Drawn((odd,), tuple(map(int, shows)), tuple(map(int, others)), names)

    def _only(self, kind: int) -> np.ndarray:
        """Pictures that show a class, and nothing else but what holds it."""
        if kind not in self._alone:
            allowed = {kind, *self.pool.above.get(kind, ())}
            rows, _ = self.pool.showing([kind])
            rows = rows[self.pool.num_possible[rows] <= len(allowed)]
            self._alone[kind] = np.array([row for row in rows if self.pool.possible(row) <= allowed], np.int64)
        return self._alone[kind]

    @cached_property
    def _alone(self) -> dict[int, np.ndarray]:
        return {}

    def _names_of(self, kind: int, shared: set[int]) -> list[str]:
        """The name of a class, and those of the classes above it that would be as right."""
        return [self.pool.classes[one] for one in (kind, *self.pool.above.get(kind, ())) if one in shared]

    def _with_others(
        self, kinds: Sequence[int], shows: np.ndarray, count: int, answer: list[str], streams: Streams,
        *, category: str | None = None,
    ) -> _Drawn | None:  # fmt: skip
        """The drawn classes and pictures, with pictures that show none of the classes, nor others of the category."""
        others = self.pool.without(kinds, count, streams.of("others"), category=category)
        return None if others is None else _Drawn(tuple(kinds), tuple(map(int, shows)), tuple(map(int, others)), answer)


KINDS = ("counting", "listing", "common", "odd")
_ANSWERS = {
    "counting": AnswerKind.NUMBER, "listing": AnswerKind.LIST, "common": AnswerKind.TEXT, "odd": AnswerKind.TEXT,
}  # fmt: skip
_TEMPLATES = {
    "counting": questions.COUNTING, "listing": questions.LISTING, "common": questions.COMMON, "odd": questions.ODD,
}  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """Classes, the pictures that show what is asked about, those beside them, and the answer."""

    classes: tuple[int, ...]
    shows: tuple[int, ...]
    others: tuple[int, ...]
    answer: list[str]
    """The items of a list, or the texts that are right."""
