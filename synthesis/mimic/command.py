"""Items of MIMIC from annotated pictures: `fovea tasks mimic --annotations FILE --images DIR --output_dir DIR`.

Annotations are in COCO's format. Without any, procedural scenes are drawn. Four kinds of question over several images:
counting, listing, the common class, and the odd one out. Each axis of difficulty takes one or several values;
`--sweep distractors=0,2,4,8` makes each item once for every value, and changes nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fovea.config import ConfigError, parse
from fovea.data.task_files import save_tasks
from fovea.statistics import best_constant
from fovea.tasks import Task
from synthesis.mimic.coco import read_coco
from synthesis.mimic.items import KINDS, Axes, CannotDraw, Drawer, Item, evenly
from synthesis.mimic.pool import SMALL, Pool, drawn_pool

SWEPT = ("spread", "distractors", "num_classes", "total", "view_px")
POOL = "pool"
"""Folder of drawn scenes."""


@dataclass(kw_only=True)
class MimicArguments:
    """Which pictures, which kinds of question, and how hard."""

    output_dir: str = field(metadata={"help": "Folder for tasks.jsonl and manifest.json."})
    annotations: str = field(
        default="", metadata={"help": "File of annotations in COCO's format (default: scenes are drawn)."}
    )
    images: str = field(default="", metadata={"help": "Folder of the pictures that the annotations name."})
    num_scenes: int = field(default=2000, metadata={"help": "Scenes to draw where there are no annotations."})
    num_tasks: int = field(default=2000, metadata={"help": "Items of each kind; with --sweep for each value."})
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": f"Of {', '.join(KINDS)}."})
    spread: list[int] = field(
        default_factory=lambda: [1, 2, 3],
        metadata={"help": "Images that show what is asked about (common: all, so 2 or more; odd: the minority)."},
    )
    distractors: list[int] = field(
        default_factory=lambda: [0, 2, 4], metadata={"help": "Images beside them (odd: the majority; common: none)."}
    )
    num_classes: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Classes that are counted together, or listed."}
    )
    total: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 5, 6], metadata={"help": "Instances to count; one value balances them."}
    )
    view_px: list[int] | None = field(
        default=None, metadata={"help": "Sides of squares with the pixels of first views (default: no bound)."}
    )
    sweep: str | None = field(default=None, metadata={"help": f"AXIS=VALUE,VALUE,… with one of {', '.join(SWEPT)}."})
    min_area: float = field(default=0.05, metadata={"help": "Share of the image under which an object is small."})
    small: str = field(
        default="image",
        metadata={
            "help": "A small object keeps its image from being asked about its class, or its box is not counted.",
            "choices": list(SMALL),
        },
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same items."})

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ConfigError(f"--kinds {' '.join(sorted(unknown))}: use some of {', '.join(KINDS)}")
        if bool(self.annotations) != bool(self.images):
            raise ConfigError("--annotations and --images belong together: a file, and the folder of its pictures")
        if not 0 <= self.min_area < 1 or min(self.num_tasks, self.num_scenes) < 1:
            raise ConfigError("--min_area is from 0 to 1, --num_tasks and --num_scenes begin at 1")
        for name, lowest in (("spread", 1), ("distractors", 0), ("num_classes", 1), ("total", 1)):
            if min(getattr(self, name), default=-1) < lowest:
                raise ConfigError(f"--{name} {getattr(self, name)}: values begin at {lowest}")
        self.swept()

    def swept(self) -> tuple[str, list[int]] | None:
        """The axis of the sweep and its values.

        Raises:
            ConfigError: for anything else.
        """
        if self.sweep is None:
            return None
        axis, _, words = self.sweep.partition("=")
        values = words.split(",")
        if axis not in SWEPT or not all(value.strip().isdecimal() for value in values) or len(values) < 2:
            raise ConfigError(f"--sweep {self.sweep}: write AXIS=VALUE,VALUE with one of {', '.join(SWEPT)}")
        return axis, sorted({int(value) for value in values})


def pool_of(arguments: MimicArguments) -> Pool:
    """The pool that the arguments name; scenes are written below the output folder."""
    if arguments.annotations:
        return read_coco(
            Path(arguments.annotations), Path(arguments.images), min_area=arguments.min_area, small=arguments.small
        )
    pool = drawn_pool(arguments.num_scenes, arguments.seed)
    folder = Path(arguments.output_dir) / POOL
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in zip(tqdm(pool.names, desc="scenes", mininterval=2), pool.images, strict=True):
        paths.append(str(folder / f"{name}.jpg"))
        Path(paths[-1]).write_bytes(content)
    return replace(pool, images=paths)


HAS = {
    "counting": ("spread", "distractors", "num_classes", "total", "view_px"),
    "listing": ("spread", "distractors", "num_classes", "view_px"),
    "common": ("spread", "view_px"),
    "odd": ("spread", "distractors", "view_px"),
}
"""The axes of each kind; the others stand still."""
NEEDS = {
    "counting": "--total is at least --spread and --num_classes",
    "listing": "any",
    "common": "--spread is 2 or more",
    "odd": "--distractors, the majority, is more than --spread, the minority",
}
"""What the axes of each kind have to be like."""


def _fits(kind: str, axes: Axes) -> bool:
    return {
        "counting": axes.total >= max(axes.spread, axes.num_classes),
        "listing": True,
        "common": axes.spread >= 2,
        "odd": axes.spread < axes.distractors,
    }[kind]


def all_series(arguments: MimicArguments, kind: str) -> list[list[Axes]]:
    """What items of a kind can be like: every combination of the axes' values, for each value of the sweep.

    A sweep of the spread keeps the number of images: what does not show it makes room for what does.

    Raises:
        ConfigError: if no combination makes an item of this kind.
    """
    swept, values = arguments.swept() or ("", [])
    still = {"spread": 2, "distractors": 0, "num_classes": 1, "total": 0, "view_px": None}
    choices: dict[str, list[Any]] = {
        name: (getattr(arguments, name) or [None]) if name in HAS[kind] and name != swept else [still[name]]
        for name in still
    }
    series = []
    for combination in product(*choices.values()):
        axes = Axes(**dict(zip(choices, combination, strict=True)))
        moved = [replace(axes, **{swept: value}) for value in values] or [axes]
        if swept == "spread" and "distractors" in HAS[kind]:
            moved = [replace(one, distractors=axes.distractors + values[-1] - one.spread) for one in moved]
        if all(_fits(kind, one) for one in moved):
            series.append(moved)
    if not series:
        raise ConfigError(f"--kinds {kind} has no item with these axes: it needs that {NEEDS[kind]}")
    return series


def items(arguments: MimicArguments, pool: Pool, kind: str) -> Iterator[list[Item] | None]:
    """The items of a kind in their order, each as often as the sweep has values; None for one that cannot be drawn.

    Totals to be counted are even over the items; what else can go with them is drawn.
    """
    drawer, series, place = Drawer(pool, arguments.seed), all_series(arguments, kind), KINDS.index(kind)
    totals = sorted({axes[0].total for axes in series})
    for number in range(arguments.num_tasks):
        total = totals[evenly(len(totals), arguments.seed, place, number)]
        fitting = [axes for axes in series if axes[0].total == total]
        rng = np.random.default_rng([arguments.seed, place, number, 1])
        for place_of in rng.permutation(len(fitting))[:MAX_AXES]:
            with suppress(CannotDraw):
                yield drawer.draw(kind, number, fitting[place_of])
                break
        else:
            yield None


MAX_AXES = 5
"""Choices of axes that are tried for one item, all with its total."""


def tasks(arguments: MimicArguments, pool: Pool, missed: Counter[str]) -> Iterator[Task]:
    """All tasks, one at a time; `missed` counts by kind what could not be drawn."""
    swept = arguments.swept()
    for kind in arguments.kinds:
        if swept and swept[0] not in HAS[kind]:
            print(f"{kind}: has no axis {swept[0]}, left out of the sweep")
            continue
        drawn = items(arguments, pool, kind)
        for found in tqdm(drawn, total=arguments.num_tasks, desc=kind, mininterval=2):
            if found is None:
                missed[kind] += 1
            for place, item in enumerate(found or ()):
                if swept is None:
                    yield item.task(pool)
                else:
                    value = swept[1][place]
                    yield item.task(pool, f"@{swept[0]}={value}", sweep={"axis": swept[0], "value": value})


def balance(made: Sequence[tuple[str, int, str]]) -> str:
    """By kind, how many items there are and what the best constant answer is worth; rows of kind, images, answer."""
    lines = []
    for kind in dict.fromkeys(kind for kind, _, _ in made):
        answers = Counter(answer for one, _, answer in made if one == kind)
        answer, _ = answers.most_common(1)[0]
        constant = best_constant([(one, said) for one, _, said in made if one == kind])
        num = answers.total()
        lines.append(f"{kind}: {num} items, {len(answers)} answers; always {answer!r} is right in {constant:.3f}")
    return "\n".join(lines)


def run(arguments: MimicArguments) -> Path:
    """Draws the items and writes them; the folder.

    Raises:
        ConfigError: for axes that make no item, or a pool that has none.
    """
    for kind in arguments.kinds:
        all_series(arguments, kind)
    folder = Path(arguments.output_dir)
    pool = pool_of(arguments)
    missed: Counter[str] = Counter()
    made: list[tuple[str, int, str]] = []

    def noted() -> Iterator[Task]:
        for task in tasks(arguments, pool, missed):
            answer = ", ".join(task.answer) if isinstance(task.answer, list) else str(task.answer)
            made.append((task.family, len(task.images), answer))
            yield task

    save_tasks(noted(), folder)
    for kind, count in missed.items():
        print(f"{kind}: {count} of {arguments.num_tasks} could not be drawn: too few pictures are certain enough")
    if not made:
        raise ConfigError("no item could be drawn: give more pictures, or easier axes")
    print(balance(made))
    manifest = {
        "settings": asdict(arguments),
        "annotations_sha256": _digest(arguments.annotations),
        "pictures": len(pool.images),
        "classes": dict(zip(pool.classes, map(int, pool.is_there.sum(axis=0)), strict=True)),
        "items": Counter(kind for kind, _, _ in made),
        "not_drawn": missed,
        "images": Counter(number for _, number, _ in made),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def _digest(path: str) -> str | None:
    if not path:
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    [arguments] = parse((MimicArguments,), description=__doc__)
    try:
        folder = run(arguments)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
