"""Procedural scenes as a pool, where there are no annotated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthesis.mimic.pool import Instances, Pool
from synthesis.shapes.scenes import NAMES, render, sample_scene
from synthesis.shapes.tasks import encode


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
    """Scenes as encoded images, rendered when they are asked for."""

    def __init__(self, scenes: Sequence[Any]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: Any) -> Any:
        return encode(render(self.scenes[number]))
