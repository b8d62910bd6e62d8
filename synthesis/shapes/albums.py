"""Tasks on several procedural scenes at once: `fovea tasks albums --output_dir DIR --num_tasks 500 --seed 1`.

Families: `find` the image that shows a shape, `read` a digit in one of the images, `compare` two digits of two images,
`sum` the digits of three, `count` a form over all images, and the `odd` one out. Shapes that are asked about stand once
in an album; the other images hold other shapes. Answers are drawn first and evenly, so that no constant answer and no
position pays. `metadata["foci"]` says for each sub-question which images it needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fovea.chains import Chain, Step
from fovea.commands import at_least_one, from_zero, plain_parser, refuse_written
from fovea.data.task_files import save_tasks
from fovea.placeholders import label_images
from fovea.tasks import AnswerKind, Target, Task
from synthesis.shapes import questions
from synthesis.shapes.guessing import balance
from synthesis.shapes.scenes import FORMS, NAMES, Name, Scene, Shape, sample_scene
from synthesis.shapes.tasks import Drawn, drawn_tasks

ALBUM_FAMILIES: Mapping[str, float] = {
    "find": 0.2, "read": 0.25, "compare": 0.2, "sum": 0.1, "count": 0.1, "odd": 0.15,
}  # fmt: skip
NUM_IMAGES = (2, 3, 4, 6, 8)
SWEEP_SIZES = (2, 4, 6, 8, 12, 16, 24)
MAX_IMAGES = 24
"""Images of an album."""
MAX_SHAPES = 4
"""Shapes of an image."""


@dataclass(frozen=True)
class Album:
    """Scenes in the order in which they are shown."""

    scenes: tuple[Scene, ...]

    def place_of(self, name: Name) -> tuple[int, Shape]:
        """The image that shows a shape, and the shape."""
        return next(
            (number, shape)
            for number, scene in enumerate(self.scenes)
            for shape in scene.shapes
            if (shape.color, shape.form) == name
        )


def sample_album(rng: np.random.Generator, num_images: int, placed: Mapping[int, Sequence[Name]]) -> Album:
    """An album in which the names of `placed` stand once, in the images named there; the rest is filled at random."""
    once = {name for names in placed.values() for name in names}
    others = [name for name in NAMES if name not in once]
    return Album(tuple(_scene(rng, list(placed.get(number, ())), others) for number in range(num_images)))


def _scene(rng: np.random.Generator, names: list[Name], others: Sequence[Name], num_shapes: int | None = None) -> Scene:
    """A scene with these names and others, up to a random number of shapes."""
    number = max(len(names), int(rng.integers(1, MAX_SHAPES + 1)) if num_shapes is None else num_shapes)
    drawn = rng.permutation(len(others))[: number - len(names)]
    names = [*names, *(others[index] for index in drawn)]
    return sample_scene(rng, num_shapes=len(names), names=names)


def make_albums(
    *,
    num_tasks: int,
    seed: int,
    families: Mapping[str, float] = ALBUM_FAMILIES,
    num_images: Sequence[int] = NUM_IMAGES,
    view_px: int = 128,
    prefix: str = "album",
) -> list[Task]:
    """`num_tasks` tasks with their images in memory; the same for the same seed. First views have `view_px` squared."""

    def make(family: str, rng: np.random.Generator, id: str) -> Task:
        size = max(int(rng.choice(list(num_images))), 3 if family == "sum" else 2)
        return _MAKERS[family](rng, size).task(id, family, view_px)

    return drawn_tasks(families, num_tasks, seed, prefix, make)


def trace_albums() -> list[Task]:
    """The albums of the cold start in `configs/papers/focus_chain`.

    A third compare: to write a question's first name into the first sub-question, with a second name behind it, takes
    a tiny model more than a thousand of them (docs/LOG.md).
    """
    families = {"find": 0.15, "read": 0.2, "compare": 0.35, "sum": 0.1, "count": 0.1, "odd": 0.1}
    return make_albums(num_tasks=2000, seed=11, families=families, prefix="album-trace")


def training_albums() -> list[Task]:
    """The albums of the RL run there: mostly what one digit tells, and as many answers yes as no.

    Of 138 yes against 105 no policies learned to say yes, and from the odd one out to say 0. Without comparisons a
    policy forgets to compare, and without counting to count (docs/LOG.md).
    """
    families = {"find": 0.1, "read": 0.55, "compare": 0.2, "count": 0.15}
    return evenly_answered(make_albums(num_tasks=1200, seed=1, families=families, prefix="album-train"))


def evenly_answered(tasks: Sequence[Task]) -> list[Task]:
    """The tasks without the last ones of those yes-or-no answers that a family has more of."""
    groups: dict[str, dict[str, list[Task]]] = defaultdict(lambda: {"yes": [], "no": []})
    for task in tasks:
        if task.kind is AnswerKind.YES_NO:
            groups[task.family][str(task.answer)].append(task)
    surplus = {
        task.id
        for answers in groups.values()
        for of_answer in answers.values()
        for task in of_answer[min(map(len, answers.values())) :]
    }
    return [task for task in tasks if task.id not in surplus]


@cache
def test_albums() -> list[Task]:
    """The held-out albums on which checkpoints are compared."""
    return make_albums(num_tasks=600, seed=3, prefix="album-test")


@cache
def sweep_albums(sizes: tuple[int, ...] = SWEEP_SIZES) -> list[Task]:
    """Held-out albums of 2 to 24 images, 60 of each size, without the families that grow with it."""
    shares = {family: share for family, share in ALBUM_FAMILIES.items() if family in ("find", "read", "compare")}
    return [
        task
        for size in sizes
        for task in make_albums(num_tasks=60, seed=4, families=shares, num_images=(size,), prefix=f"album-sweep-{size}")
    ]


def short_sweep_albums() -> list[Task]:
    """Those of `sweep_albums` with 2, 8 and 24 images."""
    return sweep_albums((2, 8, 24))


@dataclass(frozen=True)
class AlbumQuestion:
    """An album, what is asked about it, and by which steps it is answered."""

    album: Album
    question: str
    answer: str
    kind: AnswerKind
    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, Shape], ...] = ()
    """Shapes that need a close look, each with its image."""

    def task(self, id: str, family: str, view_px: int) -> Task:
        num_images = len(self.album.scenes)
        metadata = {
            "family": family,
            "num_images": num_images,
            "needs_zoom": bool(self.shapes),
            **Chain(self.steps).metadata(),
            "labels": [shape.name for _, shape in self.shapes],
            "readings": [str(shape.digit) for _, shape in self.shapes],
        }
        images = tuple(map(Drawn, self.album.scenes))
        targets = tuple(Target(shape.box, number) for number, shape in self.shapes)
        question = label_images(self.question, num_images)
        return Task(
            id, images, question, self.answer, self.kind, (), targets, view_px**2, "synthesis.shapes.albums", metadata
        )


def _name(name: Name) -> str:
    return " ".join(name)


def _some_names(rng: np.random.Generator, number: int) -> list[Name]:
    return [NAMES[index] for index in rng.choice(len(NAMES), size=number, replace=False)]


def _readings(album: Album, names: Sequence[Name]) -> tuple[tuple[tuple[int, Shape], ...], tuple[Step, ...]]:
    places = tuple(album.place_of(name) for name in names)
    steps = tuple(Step(questions.read_question(shape.name), (number,), str(shape.digit)) for number, shape in places)
    return places, steps


def _find(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    [name], number = _some_names(rng, 1), int(rng.integers(num_images))
    album = sample_album(rng, num_images, {number: [name]})
    question = questions.which_image_question(_name(name))
    return AlbumQuestion(album, question, str(number), AnswerKind.NUMBER, (Step(question, (number,), str(number)),))


def _read(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    [name] = _some_names(rng, 1)
    album = sample_album(rng, num_images, {int(rng.integers(num_images)): [name]})
    places, steps = _readings(album, [name])
    return AlbumQuestion(album, steps[0].question, steps[0].answer, AnswerKind.NUMBER, steps, places)


def _compare(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    """Two digits of two images; yes and no are drawn first."""
    wanted = bool(rng.integers(2))
    while True:
        names = _some_names(rng, 2)
        first, second = (int(number) for number in rng.choice(num_images, size=2, replace=False))
        album = sample_album(rng, num_images, {first: names[:1], second: names[1:]})
        places, steps = _readings(album, names)
        digits = [shape.digit for _, shape in places]
        if digits[0] != digits[1] and (digits[0] > digits[1]) is wanted:
            break
    question = questions.compare_question(*map(_name, names))
    return AlbumQuestion(album, question, "yes" if wanted else "no", AnswerKind.YES_NO, steps, places)


def _sum(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    names = _some_names(rng, 3)
    numbers = [int(number) for number in rng.choice(num_images, size=3, replace=False)]
    album = sample_album(rng, num_images, {number: [name] for number, name in zip(numbers, names, strict=True)})
    places, steps = _readings(album, names)
    total = sum(shape.digit for _, shape in places)
    question = questions.sum_question(list(map(_name, names)))
    return AlbumQuestion(album, question, str(total), AnswerKind.NUMBER, steps, places)


def _count(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    """A form over all images; the total is drawn first, from 1 to 6."""
    form, total = FORMS[rng.integers(len(FORMS))], int(rng.integers(1, 7))
    counts = np.zeros(num_images, dtype=int)
    while counts.sum() < total:
        counts[rng.choice(np.flatnonzero(counts < MAX_SHAPES - 1))] += 1
    others = [name for name in NAMES if name[1] != form]
    scenes = []
    for count in counts:
        named = [name for name in NAMES if name[1] == form]
        names = [named[index] for index in rng.choice(len(named), size=count, replace=False)]
        scenes.append(_scene(rng, names, others, max(1, int(count) + int(rng.integers(0, 2)))))
    ask = questions.count_question(form)
    steps = tuple(Step(ask, (number,), str(count)) for number, count in enumerate(counts) if count)
    question = questions.count_in_all_question(form)
    return AlbumQuestion(Album(tuple(scenes)), question, str(total), AnswerKind.NUMBER, steps)


def _odd(rng: np.random.Generator, num_images: int) -> AlbumQuestion:
    """The only image without a form."""
    form, number = FORMS[rng.integers(len(FORMS))], int(rng.integers(num_images))
    without = [name for name in NAMES if name[1] != form]
    scenes = []
    for index in range(num_images):
        having = [name for name in NAMES if name[1] == form]
        names = [] if index == number else [having[rng.integers(len(having))]]
        scenes.append(_scene(rng, names, without))
    question = questions.image_without_question(form)
    steps = (Step(question, (number,), str(number)),)
    return AlbumQuestion(Album(tuple(scenes)), question, str(number), AnswerKind.NUMBER, steps)


_MAKERS = {"find": _find, "read": _read, "compare": _compare, "sum": _sum, "count": _count, "odd": _odd}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for tasks.jsonl and images")
    parser.add_argument("--num_tasks", type=at_least_one, default=500)
    parser.add_argument("--seed", type=from_zero, default=0, help="the same seed gives the same tasks")
    parser.add_argument("--families", nargs="+", default=list(ALBUM_FAMILIES), choices=list(ALBUM_FAMILIES))
    parser.add_argument(
        "--num_images", nargs="+", type=at_least_one, default=list(NUM_IMAGES), help="images of a task, 2 to 24"
    )
    parser.add_argument(
        "--view_px", type=at_least_one, default=128, help="side of a square with the pixels of a first view"
    )
    args = parser.parse_args()
    if not all(2 <= number <= MAX_IMAGES for number in args.num_images):
        raise SystemExit(f"--num_images {args.num_images}: an album has 2 to {MAX_IMAGES} images")
    refuse_written(args.output_dir / "tasks.jsonl")
    shares = {family: ALBUM_FAMILIES[family] for family in args.families}
    tasks = make_albums(
        num_tasks=args.num_tasks, seed=args.seed, families=shares, num_images=args.num_images, view_px=args.view_px
    )
    save_tasks(tasks, args.output_dir)
    print(balance(tasks))


if __name__ == "__main__":
    main()
