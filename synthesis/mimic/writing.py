"""Items of a pool as a folder of tasks: their axes, their balance, and a manifest of how they were made."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fovea.commands import refuse_written
from fovea.config import ConfigError, parse
from fovea.data.task_files import save_tasks
from fovea.statistics import best_constant
from fovea.tasks import Task
from synthesis.mimic.arguments import ItemArguments
from synthesis.mimic.draws import evenly
from synthesis.mimic.item import Axes, Item
from synthesis.mimic.items import KINDS, CannotDraw, Drawer
from synthesis.mimic.pool import Pool

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
"""Conditions on the axes of each kind."""


def _fits(kind: str, axes: Axes) -> bool:
    return {
        "counting": axes.total >= max(axes.spread, axes.num_classes),
        "listing": True,
        "common": axes.spread >= 2,
        "odd": axes.spread < axes.distractors,
    }[kind]


def all_series(arguments: ItemArguments, kind: str) -> list[list[Axes]]:
    """Possible axes of a kind's items: every combination of the axes' values, for each value of the sweep.

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


def items(arguments: ItemArguments, pool: Pool, kind: str) -> Iterator[list[Item] | None]:
    """The items of a kind in their order, each as often as the sweep has values; None for one that cannot be drawn.

    Totals to be counted are even over the items; what else can go with them is drawn.
    """
    drawer, series, place = Drawer(pool, arguments.seed), all_series(arguments, kind), KINDS.index(kind)
    totals = sorted({axes[0].total for axes in series})
    # Orders of as many values would be the same: a class would tell the total. Elsewhere the key is that of items which
    # have been published.
    key = (arguments.seed, place, 1) if len(totals) == len(drawer.usable) else (arguments.seed, place)
    for number in range(arguments.num_tasks):
        total = totals[evenly(len(totals), *key, number)]
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


def kinds_of(arguments: ItemArguments) -> list[str]:
    """The kinds that are asked for, but for those without the axis that is swept."""
    swept = arguments.swept()
    return [kind for kind in arguments.kinds if swept is None or swept[0] in HAS[kind]]


def tasks(arguments: ItemArguments, pool: Pool, missed: Counter[str]) -> Iterator[Task]:
    """All tasks, one at a time; `missed` counts by kind what could not be drawn."""
    swept = arguments.swept()
    for kind in kinds_of(arguments):
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


def write_items(arguments: Any, read: Callable[[Any], Pool], *, sources: Sequence[str]) -> Path:
    """Draws the items from the pool that `read` makes of the arguments, and writes them; the folder.

    Raises:
        ConfigError: for axes that make no item, or a pool that has none.
    """
    kinds = kinds_of(arguments)
    if left_out := [kind for kind in arguments.kinds if kind not in kinds]:
        print(f"{' and '.join(left_out)}: without the axis of --sweep {arguments.sweep}, left out")
    for kind in kinds:
        all_series(arguments, kind)
    folder = Path(arguments.output_dir)
    pool = read(arguments)
    if "listing" in kinds and not len(pool.listed()):
        why = "no category has two classes that can be shown"
        if kinds == ["listing"]:
            raise ConfigError(f"--kinds listing: {why}")
        print(f"listing: {why}, left out")
        arguments = replace(arguments, kinds=[kind for kind in arguments.kinds if kind != "listing"])
    missed: Counter[str] = Counter()
    made: list[tuple[str, int, str]] = []

    def noted() -> Iterator[Task]:
        for task in tasks(arguments, pool, missed):
            answer = ", ".join(task.answer) if isinstance(task.answer, list) else str(task.answer)
            made.append((task.family, len(task.images), answer))
            yield task
        for kind, count in missed.items():
            print(f"{kind}: {count} of {arguments.num_tasks} could not be drawn: too few pictures are certain enough")
        if not made:
            raise ConfigError("no item could be drawn: give more pictures, or easier axes")

    save_tasks(noted(), folder)
    print(balance(made))
    manifest = {
        "settings": asdict(arguments),
        "sources_sha256": {source: _digest(source) for source in sources},
        "pictures": len(pool.images),
        "classes": {name: len(pool.showing([kind])[0]) for kind, name in enumerate(pool.classes)},
        "items": Counter(kind for kind, _, _ in made),
        "not_drawn": missed,
        "images": Counter(number for _, number, _ in made),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def command(kind: type, run: Callable[[Any], Path], description: str | None) -> None:
    """A command: reads its arguments, runs, and says where the items are or what was wrong."""
    [arguments] = parse((kind,), description=description)
    refuse_written(Path(arguments.output_dir) / "manifest.json")
    try:
        folder = run(arguments)
    except FileNotFoundError as error:
        missing = f"{error.filename} is not there" if error.filename else str(error)  # pyarrow's names it in its words
        raise SystemExit(f"{missing}: name a file, or a folder, that is there") from error
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder}")


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
