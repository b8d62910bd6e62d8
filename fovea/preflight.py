"""What `fovea doctor` says about a model, tasks and memory, before any of them meets an environment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from fovea.boxes import Frame, Size, View
from fovea.config import CONFIGS
from fovea.doctor import Note
from fovea.images import ImageError, open_image
from fovea.kernels.layouts import FAMILIES
from fovea.memory import GIB, OVERHEAD
from fovea.models.loading import Model, base_of, limited, load_model, load_outline
from fovea.models.random_models import RELEASED, random_model
from fovea.statistics import best_constant
from fovea.tasks import AnswerKind, Target, Task

NUM_LOOKED_AT = 200
"""Tasks whose images are opened."""


def evenly(found: Sequence[Any], number: int) -> list[Any]:
    """At most so many of them, evenly spaced."""
    number = min(number, len(found))
    return [found[place * len(found) // number] for place in range(number)]


def model(note: Note, name: str, script: Any, *, load_weights: bool | None, **options: Any) -> tuple[Model, bool]:
    """The model called `name`, and whether its weights were loaded; of one that is not here, its shape.

    Weights are loaded if they are wanted, or else if they take a quarter of the free memory or less: they are run in
    float32.
    """
    limits = {"min_pixels": script.min_pixels, "max_pixels": script.max_pixels}
    made_by = None if name == "tiny" or Path(name).exists() else _recipe_for(name)
    if made_by is not None:
        recipe, name = made_by
        note.warn(f"{recipe} has not made this model yet; examined on its base, {name}", "run that training first")
    base = name if name in RELEASED and not Path(name).exists() else base_of(name)
    if base in RELEASED and not Path(base).exists():
        found = random_model(RELEASED[base], device="meta", dtype=torch.bfloat16)
        note.warn(
            f"{base} is examined by its known shape, with a small tokenizer that writes more tokens than its own",
            "where it is downloaded, give its folder as --model_name_or_path",
        )
        return Model(found.network, limited(found.processor, **limits), base), False
    if load_weights is None:
        weights = sum(file.stat().st_size for file in Path(base).glob("*.safetensors"))
        load_weights = 0 < weights <= psutil.virtual_memory().available / 4
    if not load_weights:
        note.ok(f"{name}: examined by the configuration of {base}; weights are not loaded")
        return load_outline(base, **limits), False
    loaded = load_model(name, **limits, **options)
    broken = [part for part, weight in loaded.network.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        note.fail(
            f"{len(broken)} weights of {name} hold NaN or infinity, the first is {broken[0]}", "use another checkpoint"
        )
    else:
        size = sum(weight.numel() for weight in loaded.network.parameters())
        note.ok(f"{name}: {type(loaded.network).__name__} of {size / 1e6:.1f}M finite parameters")
    return loaded, True


def _recipe_for(folder: str) -> tuple[str, str] | None:
    """The shipped recipe that writes its model to `folder`, and the model it starts from."""
    for path in sorted(CONFIGS.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        if recipe.get("output_dir") == folder:
            return path.name, recipe["model_name_or_path"]
    return None


def tasks(note: Note, found: Sequence[Task]) -> None:
    """Images that open, questions that do not give their answer away, answers that differ."""
    if not found:
        note.fail("there are no tasks", "look at --dataset_name and --max_tasks")
        return
    problems = []
    for task in evenly(found, NUM_LOOKED_AT):
        try:
            sizes = [open_image(image).size for image in task.images]
        except ImageError as error:
            problems.append(f"task {task.id}: {error}")
            continue
        outside = [target for target in task.boxes if not _lies_in(target, sizes)]
        if outside:
            problems.append(f"task {task.id}: {outside[0].box} lies outside its image, of sizes {sizes}")
    if problems:
        note.fail(f"images or boxes of {len(problems)} tasks cannot be used, the first: {problems[0]}", "mend them")
        return
    leaks = [task for task in found if _gives_itself_away(task)]
    if len(leaks) > 0.02 * len(found):
        say = note.fail if len(leaks) > len(found) / 2 else note.warn
        say(
            f"{len(leaks)} of {len(found)} questions contain their answer, as {leaks[0].question[:100]!r} "
            f"({leaks[0].answer!r})",
            "take the answer out of the question, or name the right column with --columns",
        )
        return
    constant = best_constant([(task.family, str(task.answer)) for task in found])
    if constant > 0.8 and len(found) >= 10:
        note.warn(f"one answer for each family scores {constant:.2f}: nothing need be seen", "balance the answers")
    repeated = len(found) - len({task.id for task in found})
    if repeated:
        note.warn(f"{repeated} tasks have the id of another one", "give each its own id: logs are paired by it")
    blind = sum(not task.images for task in found)
    kinds = ", ".join(sorted({task.kind.value for task in found}))
    note.ok(f"{len(found)} tasks, {blind} without images; kinds {kinds}; one answer a family scores {constant:.2f}")


def _lies_in(target: Target, sizes: Sequence[Size]) -> bool:
    """Whether a box in pixels or shares of the original lies in its image, to a hundredth."""
    if not 0 <= target.img_idx < len(sizes):
        return False
    if target.box.frame is Frame.INPUT:
        return True
    unit = target.box.to(Frame.UNIT, View(sizes[target.img_idx], sizes[target.img_idx]))
    return min(unit.x1, unit.y1) >= -0.01 and max(unit.x2, unit.y2) <= 1.01


def _gives_itself_away(task: Task) -> bool:
    """Whether the answer stands in the question and is no alternative that it offers."""
    answer = str(task.answer).strip().lower()
    question = task.question.lower()
    is_open = task.kind in (AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.MATH) and " or " not in question
    return is_open and bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", question) is not None


def can_estimate(note: Note, network: Any) -> bool:
    """Whether memory can be estimated for this family; if not, says so."""
    family = network.config.model_type
    if family not in FAMILIES:
        note.warn(f"is estimated for {' and '.join(FAMILIES)} only, and this is {family}")
    return family in FAMILIES


def memory(
    note: Note, held: dict[str, int], phases: dict[str, tuple[int, list[str]]], limit: float | None, arguments: Any,
    remark: str = "",
) -> None:  # fmt: skip
    """Says what a process needs, and whether it fits into `limit` GiB.

    `held` is there all the time, `phases` come on top of it one at a time: bytes, and what would make them fewer.
    """
    factor, context = OVERHEAD
    base = sum(held.values())
    parts = " + ".join(f"{name} {size / GIB:.2f}" for name, size in held.items())
    peaks = ", ".join(f"{name} {(base + size) / GIB:.2f}" for name, (size, _) in phases.items())
    summary = f"{parts} GiB; at most: {peaks}" + (f" ({remark})" if remark else "")
    if limit is None:
        note.ok(f"{summary}; give --gpu_memory_gib to compare it with a GPU")
        return
    need = (base + max(size for size, _ in phases.values())) * factor + context
    if need <= limit * GIB:
        note.ok(f"{summary}; {need / GIB:.1f} of {limit:.0f} with overheads")
        return
    room = (limit * GIB - context) / factor - base
    cures = [cure for size, cures in phases.values() if size > max(room, 0) for cure in cures]
    if room < 0:
        quantized = arguments.load_in_4bit or arguments.load_in_8bit
        smaller = ["--load_in_4bit true" if arguments.use_peft else "--use_peft true"] * (not quantized)
        cures = [*smaller, "more processes under ZeRO-3 (--accelerate_config)", *cures]
    note.fail(f"{summary}; {need / GIB:.1f} with overheads, and there are {limit:.0f}", "; or ".join(cures))
