"""Accuracy with fewer visual tokens: `fovea analyse pooling CHECKPOINT --dataset_name … --output_dir DIR`.

The same questions with the visual tokens of each image as they are, and averaged two by two, four by four, eight by
eight (MIMIC, arXiv 2601.07812). Beside each the control: as many tokens as before, and that many times fewer pixels in
them, so that the information is as little and the sequence is not shorter. Each is an evaluation in a folder of its own
below DIR, and the same command goes on where it stopped. Writes pooling.csv and pooling.json, which `fovea report`
draws.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from environments.arguments import EpisodeArguments
from environments.taught import checkpoint_defaults
from evaluation.arguments import EvaluationArguments, OfEachFamily
from evaluation.discover import POOLING
from evaluation.playing import evaluate
from fovea.config import parse
from fovea.models.loading import Model
from fovea.tasks import Task

KINDS = ("token_pooling", "pixel_pooling")


@dataclass(kw_only=True)
class PoolingArguments(OfEachFamily, EvaluationArguments):
    """The checkpoint, the tasks, and the factors by which images lose tokens."""

    dataset_name: str = field(
        default="synthesis.shapes.albums:test_albums",
        metadata={"help": "Tasks: file, folder, hub id or module:function."},
    )
    max_tasks: int | None = field(default=None, metadata={"help": "Use only so many tasks, as many of each family."})
    factors: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8],
        metadata={
            "help": "Numbers of neighbouring tokens that become one, one evaluation each; 1 leaves them as they are."
        },
    )

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"--factors {self.factors}: give numbers from 1, how many tokens become one")
        if own := [name for name in ("view_sizes_px", "arms", "all_checkpoints") if getattr(self, name)]:
            raise ValueError(f"--{own[0]} is a sweep of its own: leave it out here")
        super().__post_init__()

    @property
    def pools(self) -> bool:
        return max(self.factors) > 1


@dataclass(frozen=True)
class Point:
    """The accuracy with one way of pooling, its 95% interval, and the visual tokens of a question where known."""

    kind: str
    factor: int
    accuracy: float
    interval: tuple[float, float]
    image_tokens: float | None
    n: int


def analyse(model: Model, tasks: list[Task], arguments: PoolingArguments, episodes: EpisodeArguments) -> list[Point]:
    """One point for each kind and factor; a factor of 1 is the same in both kinds, and evaluated once."""
    folder, points = Path(arguments.output_dir), []
    for factor in sorted(set(arguments.factors)):
        for kind in KINDS if factor > 1 else KINDS[:1]:
            pooled: dict[str, Any] = {kind: factor, "output_dir": str(folder / f"{kind}_{factor}")}
            here = replace(arguments, **pooled, max_tasks=None)  # its tasks are not the first ones of the file
            summary = evaluate(model, tasks, here, episodes)
            tokens = summary.image_tokens_per_question
            points.append(Point(kind, factor, summary.accuracy, summary.interval, tokens, summary.n))
    return points


def write(points: Sequence[Point], folder: Path) -> None:
    """Writes pooling.csv and pooling.json."""
    with (folder / "pooling.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["kind", "factor", "accuracy", "low", "high", "visual tokens a question", "n"])
        lines.writerows([p.kind, p.factor, p.accuracy, *p.interval, p.image_tokens, p.n] for p in points)
    (folder / POOLING).write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")


def read(path: Path) -> list[Point]:
    """The points in pooling.json, as `write` wrote them."""
    points = [Point(**one) for one in json.loads(path.read_text())]
    return [replace(point, interval=(point.interval[0], point.interval[1])) for point in points]


def table(points: Sequence[Point]) -> str:
    """The points as text."""
    head = f"{'kind':<15}{'factor':>7}{'accuracy':>10}{'95% interval':>16}{'visual tokens':>15}{'n':>7}"
    lines = [
        f"{p.kind:<15}{p.factor:>7}{p.accuracy:>10.3f}{p.interval[0]:>9.3f}-{p.interval[1]:.3f}"
        f"{'' if p.image_tokens is None else round(p.image_tokens):>14}{p.n:>8}"
        for p in points
    ]
    return "\n".join([head, *lines])


def main() -> None:
    defaults = {"environment": "views", **checkpoint_defaults(sys.argv)}
    arguments, episodes = parse((PoolingArguments, EpisodeArguments), defaults=defaults, description=__doc__)
    model, tasks = arguments.load()
    points = analyse(model, tasks, arguments, episodes)
    write(points, Path(arguments.output_dir))
    print(f"\n{table(points)}\n\nwritten to {Path(arguments.output_dir) / 'pooling.csv'}")


if __name__ == "__main__":
    main()
