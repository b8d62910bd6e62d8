"""Tasks on procedural scenes: `fovea tasks --output_dir DIR --num_tasks 500 --seed 1`.

Families: `read` one digit (one zoom), `compare` two (two zooms), `nested` (a zoom, then a zoom into the crop), and
`direct` (colour, count, or a digit printed large enough; no zoom). First views come in several sizes, so whether a
digit needs a zoom varies with the view.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fovea.boxes import Box
from fovea.commands import at_least_one, from_zero, plain_parser, refuse_written
from fovea.data.identity import digest
from fovea.data.task_files import save_tasks
from fovea.tasks import AnswerKind, Target, Task
from synthesis.shapes import questions
from synthesis.shapes.scenes import DRAWING, LEGIBLE_PX, SCENE_SIZE_PX, Scene, Shape, glyph_box, render, sample_scene

FAMILIES: Mapping[str, float] = {"read": 0.45, "compare": 0.2, "nested": 0.15, "direct": 0.2}
"""Families and their shares in the default mixture."""
TRAINING_FAMILIES: Mapping[str, float] = {"read": 0.6, "compare": 0.1, "nested": 0.05, "direct": 0.25}
"""The mixture of the default RL run: more of what rewards tell most about. A yes or no is right half the time by
guessing, a nested question at first hardly ever, and both take the longest episodes."""
ZOOM_FAMILIES = ("read", "compare", "nested")
VIEW_SIZES_PX = (128, 128, 128, 96)
PANEL_SCENE_SIZE_PX = 1024


def make_tasks(
    *, num_tasks: int, seed: int, families: Mapping[str, float] = FAMILIES, prefix: str = "shapes"
) -> list[Task]:
    """`num_tasks` tasks, whose images are drawn when they are shown; the same for the same seed."""
    return drawn_tasks(families, num_tasks, seed, prefix, lambda family, rng, id: _MAKERS[family](rng, id))


def drawn_tasks(
    families: Mapping[str, float],
    num_tasks: int,
    seed: int,
    prefix: str,
    make: Callable[[str, np.random.Generator, str], Task],
) -> list[Task]:
    """Tasks of families drawn by their shares; `make` gets the family, a generator for this task, and its id."""
    names, shares = list(families), np.array(list(families.values()))
    tasks = []
    for index in tqdm(range(num_tasks), desc=f"{prefix} tasks", leave=False, mininterval=2):
        rng = np.random.default_rng([seed, index])
        family = names[rng.choice(len(names), p=shares / shares.sum())]
        tasks.append(make(family, rng, f"{prefix}-{seed}-{index}"))
    return tasks


def encode(image: Image.Image) -> bytes:
    """The image as JPEG bytes: a twentieth of its size in memory."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


@dataclass(frozen=True)
class Drawn:
    """A scene as JPEG bytes, drawn when they are first read."""

    scene: Scene

    @cached_property
    def mark(self) -> str:
        """A text that tells the picture apart without its being drawn."""
        return f"drawn {DRAWING} {digest(asdict(self.scene))}"

    def read(self) -> bytes:
        return self._content

    @cached_property
    def _content(self) -> bytes:
        size_px = PANEL_SCENE_SIZE_PX if self.scene.panels else SCENE_SIZE_PX
        return encode(render(self.scene, size_px=size_px))


def training_tasks() -> list[Task]:
    """The tasks of the default RL run."""
    return make_tasks(num_tasks=1000, seed=1, families=TRAINING_FAMILIES, prefix="train")


def validation_tasks() -> list[Task]:
    """A few held-out tasks to watch a training by."""
    return make_tasks(num_tasks=64, seed=2, prefix="validation")


@cache
def test_tasks() -> list[Task]:
    """The held-out tasks on which checkpoints of the tiny model are compared."""
    return make_tasks(num_tasks=600, seed=3, prefix="test")


def _task(
    scene: Scene,
    question: str,
    answer: object,
    kind: AnswerKind,
    *,
    id: str,
    family: str,
    view_px: int,
    boxes: Sequence[Box] = (),
    **extra: object,
) -> Task:
    metadata = {"family": family, "needs_zoom": family != "direct", "view_px": view_px, **extra}
    targets = tuple(Target(box) for box in boxes)
    return Task(id, (Drawn(scene),), question, str(answer), kind, (), targets, view_px**2, "synthesis.shapes", metadata)


def _some_shape(rng: np.random.Generator, shapes: tuple[Shape, ...]) -> Shape:
    return shapes[rng.integers(len(shapes))]


def _glyph(shape: Shape) -> list[float]:
    return list(glyph_box(shape).coordinates)


def _read(rng: np.random.Generator, id: str) -> Task:
    scene = sample_scene(rng, num_shapes=int(rng.integers(2, 6)))
    return _read_task(rng, id, scene, int(rng.choice(VIEW_SIZES_PX)))


def _read_task(rng: np.random.Generator, id: str, scene: Scene, view_px: int) -> Task:
    """Reads one digit of the scene; `direct` when it is legible at this view."""
    shape = _some_shape(rng, scene.shapes)
    family = "direct" if shape.print_height * view_px >= LEGIBLE_PX else "read"
    return _task(
        scene,
        questions.read_question(shape.name),
        shape.digit,
        AnswerKind.NUMBER,
        id=id,
        family=family,
        view_px=view_px,
        boxes=[shape.box],
        labels=[shape.name],
        readings=[str(shape.digit)],
        glyphs=[_glyph(shape)],
    )


def _compare(rng: np.random.Generator, id: str) -> Task:
    while True:
        scene = sample_scene(rng, num_shapes=int(rng.integers(2, 6)))
        first, second = (scene.shapes[i] for i in rng.permutation(len(scene.shapes))[:2])
        if first.digit != second.digit:
            break
    pair = (first, second)
    return _task(
        scene,
        questions.compare_question(first.name, second.name),
        "yes" if first.digit > second.digit else "no",
        AnswerKind.YES_NO,
        id=id,
        family="compare",
        view_px=int(rng.choice(VIEW_SIZES_PX)),
        boxes=[shape.box for shape in pair],
        labels=[shape.name for shape in pair],
        questions=[questions.read_question(shape.name) for shape in pair],
        readings=[str(shape.digit) for shape in pair],
        glyphs=[_glyph(shape) for shape in pair],
    )


def _nested(rng: np.random.Generator, id: str) -> Task:
    scene = sample_scene(rng, num_shapes=int(rng.integers(0, 4)), num_panels=int(rng.integers(1, 3)))
    panel = scene.panels[rng.integers(len(scene.panels))]
    shape = _some_shape(rng, panel.shapes)
    return _task(
        scene,
        questions.read_question(shape.name, panel.name),
        shape.digit,
        AnswerKind.NUMBER,
        id=id,
        family="nested",
        view_px=128,
        nested=True,
        boxes=[panel.box, shape.box],
        labels=[panel.name, shape.name],
        readings=["", str(shape.digit)],
        glyphs=[_glyph(shape)],
    )


def _direct(rng: np.random.Generator, id: str) -> Task:
    kind = rng.integers(3)
    scene = sample_scene(rng, num_shapes=int(rng.integers(2, 6)), large_print=bool(kind == 0))
    if kind == 0:
        return _read_task(rng, id, scene, int(rng.choice((128, 128, 96, 64))))
    shape = _some_shape(rng, scene.shapes)
    sole = questions.sole_shapes(scene)
    view_px = int(rng.choice(VIEW_SIZES_PX))
    if kind == 1 and sole:
        shape = _some_shape(rng, tuple(sole))
        asked, answer, answer_kind = questions.color_question(shape.form), shape.color, AnswerKind.TEXT
    else:
        count = questions.num_of_form(scene, shape.form)
        asked, answer, answer_kind = questions.count_question(shape.form), str(count), AnswerKind.NUMBER
    return _task(scene, asked, answer, answer_kind, id=id, family="direct", view_px=view_px)


_MAKERS = {"read": _read, "compare": _compare, "nested": _nested, "direct": _direct}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for tasks.jsonl and images")
    parser.add_argument("--num_tasks", type=at_least_one, default=500)
    parser.add_argument("--seed", type=from_zero, default=0, help="the same seed gives the same tasks")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    args = parser.parse_args()
    refuse_written(args.output_dir / "tasks.jsonl")
    shares = {family: FAMILIES[family] for family in args.families}
    save_tasks(make_tasks(num_tasks=args.num_tasks, seed=args.seed, families=shares), args.output_dir)


if __name__ == "__main__":
    main()
