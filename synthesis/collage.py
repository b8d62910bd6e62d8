"""Zoom tasks from any single-image questions: `fovea tasks collage --dataset_name tasks.jsonl --output_dir DIR`.

Each picture is packed with others into a grid, until what is asked about is small in the first view. The question says
in which row and column to look, and the box of the detail (of the picture, where the task has none) is exact. The idea
is that of InSight-o3's collages.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from fovea.answers.boxes import reference_boxes
from fovea.arguments import TaskArguments
from fovea.boxes import UNIT_VIEW, WHOLE, Box, Frame, View
from fovea.commands import refuse_written
from fovea.config import ConfigError, parse
from fovea.data.columns import TaskError
from fovea.data.identity import source_hash
from fovea.data.task_files import save_tasks
from fovea.images import open_image
from fovea.placeholders import MARK
from fovea.tasks import AnswerKind, Target, Task

QUALITY = 92
"""Of the JPEG files."""


@dataclass(kw_only=True)
class CollageArguments(TaskArguments):
    """The questions of collages, and the size of their details."""

    dataset_name: str = field(metadata={"help": "Tasks with one image each: file, folder, hub id or module:function."})
    output_dir: str = field(metadata={"help": "Folder for tasks.jsonl and the collages."})
    sides: list[int] = field(
        default_factory=lambda: [2, 3, 4, 5], metadata={"help": "Grids to choose from: pictures a row and a column."}
    )
    detail_px: float = field(
        default=16.0, metadata={"help": "The smallest grid is taken in which the detail is at most so wide or high."}
    )
    view_px: int = field(default=512, metadata={"help": "Side of a square with as many pixels as the first view."})
    picture_px: int = field(default=640, metadata={"help": "Longer side of a picture in the collage, at most."})
    gap_px: int = field(default=8, metadata={"help": "Space between pictures."})
    seed: int = field(default=0, metadata={"help": "Seed of places and of distractor pictures."})


@dataclass(frozen=True)
class Grid:
    """A square of pictures; `cell` is the width and height of a place in it, `gap` the space around each, in pixels."""

    side: int
    cell: tuple[int, int]
    gap: int

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.cell
        return self.side * (width + self.gap) + self.gap, self.side * (height + self.gap) + self.gap

    def place(self, number: int, picture: tuple[int, int]) -> Box:
        """The box (UNIT of the collage) of a picture of this size that stands in the middle of a cell."""
        (cell_width, cell_height), (width, height), (whole_width, whole_height) = self.cell, picture, self.size
        row, column = divmod(number, self.side)
        x = self.gap + column * (cell_width + self.gap) + (cell_width - width) // 2
        y = self.gap + row * (cell_height + self.gap) + (cell_height - height) // 2
        right, bottom = (x + width) / whole_width, (y + height) / whole_height
        return Box(x / whole_width, y / whole_height, right, bottom, Frame.UNIT)


def fitted(image: Image.Image, longest_px: int) -> Image.Image:
    """The image, made smaller if its longer side is above the bound."""
    scale = longest_px / max(image.size)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def detail_side_px(detail: Box, grid: Grid, view_px: int) -> float:
    """Shorter side of a box (UNIT of the collage) in a first view of `view_px` squared pixels."""
    width, height = grid.size
    scale = min(1.0, view_px / (width * height) ** 0.5)
    return min(detail.width * width, detail.height * height) * scale


def collage_of(
    task: Task, pool: Sequence[Task], own: int, arguments: CollageArguments, rng: np.random.Generator
) -> Task:
    """The task on a collage of its picture and distractors: those of `pool`, whose pictures all differ, but `own`."""
    picture = fitted(open_image(task.images[0]), arguments.picture_px)
    details = [target.box for target in task.boxes] or [WHOLE]
    for side in sorted(arguments.sides):
        grid = Grid(side, (arguments.picture_px, arguments.picture_px), arguments.gap_px)
        number = int(rng.integers(side**2))
        place = grid.place(number, picture.size)
        smallest = min(detail_side_px(box.within(place, view=UNIT_VIEW), grid, arguments.view_px) for box in details)
        if smallest <= arguments.detail_px:
            break
    canvas = Image.new("RGB", grid.size, "white")
    num_others, num_places = len(pool) - 1, grid.side**2 - 1
    chosen = rng.choice(num_others, size=num_places, replace=num_others < num_places)
    distractors = iter([pool[index + (index >= own)] for index in chosen])
    for cell in range(grid.side**2):
        shown = picture if cell == number else fitted(open_image(next(distractors).images[0]), arguments.picture_px)
        box = grid.place(cell, shown.size).to(Frame.ORIGINAL, View(grid.size, grid.size))
        canvas.paste(shown, (round(box.x1), round(box.y1)))
    row, column = divmod(number, grid.side)
    there = f"the picture in row {row + 1}, column {column + 1}"
    metadata = {**task.metadata, "collage_side": grid.side, "detail_px": round(smallest, 1), "needs_zoom": True}
    if labels := task.texts("labels"):
        metadata["labels"] = [f"{label} in {there}" for label in labels]
    return replace(
        task,
        id=f"{task.id}-collage",
        images=(_jpeg(canvas),),
        question=f"In {there}: " + task.question.replace(MARK, ""),
        answer=_moved_answer(task, place),
        boxes=tuple(Target(box.within(place, view=UNIT_VIEW)) for box in details),
        first_view_max_pixels=arguments.view_px**2,
        metadata=metadata,
    )


def _moved_answer(task: Task, place: Box) -> object:
    if task.kind is not AnswerKind.BOX:
        return task.answer
    return [Target(target.box.within(place, view=UNIT_VIEW)).to_dict() for target in reference_boxes(task)]


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def collages(tasks: Sequence[Task], arguments: CollageArguments) -> Iterator[Task]:
    """A collage for each task with one picture, the same for the same seed.

    Raises:
        ConfigError: if there are too few different pictures to have a distractor, or a grid of one.
    """
    if min(arguments.sides, default=0) < 2:
        raise ConfigError(f"--sides {arguments.sides}: give two pictures a side or more")
    single = [task for task in tasks if len(task.images) == 1]
    hashes = [source_hash(task.images[0]) for task in single]
    if len(set(hashes)) < 2:
        raise ConfigError(
            f"{len(set(hashes))} different pictures are too few for a collage: give tasks on two pictures or more"
        )
    pool: dict[str, Task] = {}
    for task, picture in zip(single, hashes, strict=True):
        pool.setdefault(picture, task)
    places = {picture: place for place, picture in enumerate(pool)}
    different = list(pool.values())
    for number, (task, picture) in enumerate(zip(tqdm(single, desc="collages"), hashes, strict=True)):
        rng = np.random.default_rng([arguments.seed, number])
        yield collage_of(task, different, places[picture], arguments, rng)


def main() -> None:
    [arguments] = parse((CollageArguments,), arguments=sys.argv[1:], description=__doc__)
    folder = Path(arguments.output_dir)
    refuse_written(folder / "tasks.jsonl")
    try:
        tasks = arguments.load_tasks()
    except (FileNotFoundError, TaskError) as error:
        raise SystemExit(str(error)) from error
    made: list[Mapping[str, Any]] = []

    def noted() -> Iterator[Task]:
        for task in collages(tasks, arguments):
            made.append(task.metadata)
            yield task

    save_tasks(noted(), folder)
    sides = [metadata["collage_side"] for metadata in made]
    small = sum(metadata["detail_px"] <= arguments.detail_px for metadata in made)
    grids = ", ".join(f"{sides.count(side)} of {side}x{side}" for side in sorted(set(sides)))
    print(f"{len(made)} collages of {len(tasks)} tasks: {grids}")
    print(f"in {small} of them the detail has {arguments.detail_px:g} pixels or less in the first view")
    if len(made) < len(tasks):
        print(f"left out: {len(tasks) - len(made)} tasks with no image, or with several")
    print(f"written to {folder / 'tasks.jsonl'}")


if __name__ == "__main__":
    main()
