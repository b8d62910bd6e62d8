"""A pool of pictures with the instances in each, as arrays: what the items of MIMIC are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fovea.boxes import UNIT_VIEW, Box, Frame
from synthesis.shapes.scenes import NAMES, render, sample_scene
from synthesis.shapes.tasks import encode

SMALL = ("image", "box")
"""What becomes of an object under the smallest area: its image is not asked about its class, or it is not counted."""


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

    An instance counts if its box holds some of the picture and covers at least `min_area` of it. A class is `unsure` in
    a picture with a crowd of it, with a box of it that holds nothing, or (where `small` is "image") with an instance
    that is too small: no item relies on such a class there, neither on its presence nor on its absence.
    """

    images: Sequence[Any]
    """What `open_image` takes, one each."""
    names: Sequence[str]
    """What each picture is called where it comes from; none twice."""
    classes: Sequence[str]
    categories: Sequence[str]
    """Of each class, the category that it belongs to."""
    instances: Instances
    min_area: float = 0.05
    small: str = "image"
    source: str = ""
    counts: np.ndarray = field(init=False)
    """Int [pictures, classes]: instances that count."""
    unsure: np.ndarray = field(init=False)
    """Bool [pictures, classes]: whether there may be more."""

    def __post_init__(self) -> None:
        shape = len(self.images), len(self.classes)
        counts, unsure = np.zeros(shape, np.int32), np.zeros(shape, bool)
        found, boxes = self.instances, self.instances.clipped()
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        area = sides[:, 0] * sides[:, 1]
        is_small = (area > 0) & (area < self.min_area)
        is_counted = (area > 0) & ~is_small & ~found.is_crowd
        in_doubt = found.is_crowd | (area <= 0) | (is_small if self.small == "image" else False)
        np.add.at(counts, (found.picture[is_counted], found.kind[is_counted]), 1)
        unsure[found.picture[in_doubt], found.kind[in_doubt]] = True
        for name, value in (("counts", counts), ("unsure", unsure), ("_is_counted", is_counted)):
            object.__setattr__(self, name, value)

    @cached_property
    def is_there(self) -> np.ndarray:
        """Bool [pictures, classes]: certainly there, and counted."""
        return (self.counts > 0) & ~self.unsure

    @cached_property
    def may_be(self) -> np.ndarray:
        """Bool [pictures, classes]: there, or perhaps there."""
        return (self.counts > 0) | self.unsure

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Counted instances by picture, and where those of each picture begin."""
        rows = np.flatnonzero(self._is_counted)  # type: ignore[attr-defined]
        rows = rows[np.argsort(self.instances.picture[rows], kind="stable")]
        return rows, np.searchsorted(self.instances.picture[rows], np.arange(len(self.images) + 1))

    def shown(self, picture: int) -> list[int]:
        """The classes that are in a picture, or may be."""
        return list(map(int, np.flatnonzero(self.may_be[picture])))

    def boxes(self, picture: int, kinds: Sequence[int]) -> list[Box]:
        """The boxes of the counted instances of some classes in a picture, in UNIT."""
        rows, starts = self._order
        here = rows[starts[picture] : starts[picture + 1]]
        return [
            Box.of(map(float, self.instances.boxes[row]), Frame.UNIT).clipped(UNIT_VIEW)
            for row in here[np.isin(self.instances.kind[here], kinds)]
        ]


def drawn_pool(num_pictures: int, seed: int, *, max_kinds: int = 3, max_of_kind: int = 3) -> Pool:
    """Procedural scenes as a pool: classes are shapes of one colour, categories are the colours."""
    scenes = []
    for number in range(num_pictures):
        rng = np.random.default_rng([seed, number])
        kinds = rng.choice(len(NAMES), size=int(rng.integers(0, max_kinds + 1)), replace=False)
        names = [NAMES[kind] for kind in kinds for _ in range(int(rng.integers(1, max_of_kind + 1)))]
        scenes.append(sample_scene(rng, num_shapes=len(names), names=names))
    shapes = [(number, shape) for number, scene in enumerate(scenes) for shape in scene.shapes]
    instances = Instances(
        picture=np.array([number for number, _ in shapes], np.int64),
        kind=np.array([NAMES.index((shape.color, shape.form)) for _, shape in shapes], np.int64),
        boxes=np.array([shape.box.coordinates for _, shape in shapes], np.float64).reshape(-1, 4),
        is_crowd=np.zeros(len(shapes), bool),
    )
    return Pool(
        images=_Rendered(scenes),
        names=[f"scene-{seed}-{number}" for number in range(num_pictures)],
        classes=[" ".join(name) for name in NAMES],
        categories=[f"{color} shape" for color, _ in NAMES],
        instances=instances,
        min_area=0.0,
        source="synthesis.mimic",
    )


class _Rendered(Sequence):
    """Scenes as encoded images, each rendered when it is first asked for."""

    def __init__(self, scenes: Iterable[Any]) -> None:
        self.scenes = list(scenes)
        self._encoded: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: Any) -> Any:
        if number not in self._encoded:
            self._encoded[number] = encode(render(self.scenes[number]))
        return self._encoded[number]
