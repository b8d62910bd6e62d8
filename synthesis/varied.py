"""The same questions otherwise ordered: `fovea tasks varied --dataset_name tasks.jsonl --output_dir DIR`.

What does not change the right answer should not change a model's (`fovea analyse consistency`). Behind each task stand
up to three variants of it, whose `metadata.variant` names the task and the kind:

    images       its images in another order; boxes and foci go with them
    options      its options in another order
    distractor   one image more, behind the others: noise, or a picture of --distractors that shows nothing asked about

Left out is what might ask something else: images of a question that speaks of them by number, place or time ("the
second picture", "which image", "what happened then"), or has them within its text; options that speak of each other
("both A and B", "none of the above"). A distractor is added where there are several images, for "the image" would
become unclear where there is one, and not to questions about all of them ("how many in all", "the same person"). Words
decide that: read some of what is written before you trust the numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fovea.answers.choices import choice_letter
from fovea.arguments import TaskArguments
from fovea.chains import KEYS
from fovea.commands import refuse_written
from fovea.config import ConfigError, parse
from fovea.data.task_files import save_tasks
from fovea.images import open_image
from fovea.placeholders import ANY_LABEL, IMAGE_LABEL, MARK
from fovea.tasks import AnswerKind, Task
from synthesis.chains.pool import image_paths
from synthesis.shapes.tasks import encode

KINDS = ("images", "options", "distractor")
_FRONT = re.compile(rf"(?:\s*(?:{ANY_LABEL})?{MARK})+\s*")
_IMAGE = r"(?:images?|pictures?|photos?|photographs?|views?|frames?|panels?|figures?|screenshots?|slides?|pages?|maps?)"
_PLACE = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|last|final|initial|next|previous|former|latter|middle|cent(?:er|re)|"
    r"left(?:most)?|right(?:most)?|top|bottom|upper|lower|other|reference|original|\d+(?:st|nd|rd|th))"
)
_BY_PLACE = re.compile(
    rf"\b{_IMAGE}[\W_]{{0,2}}(?:\d|[A-H]\b|one\b|two\b|three\b|four\b|five\b)|"
    rf"\b{_PLACE}(?:[ -]\w+){{0,2}} {_IMAGE}\b|"
    rf"\b{_IMAGE} (?:is |are )?(?:on|at|to|in) the {_PLACE}\b|\b{_IMAGE} (?:above|below|before|after)\b|"
    rf"\b(?:which|select|choose|identify|pick|find)\b[^.?!]{{0,40}}\b{_IMAGE}\b|\bwhat {_IMAGE}\b|\bwhich one\b|"
    rf"^\W*{_PLACE}(?: one)?\W*$",
    re.IGNORECASE,
)
"""Speaks of an image by its number or place, or asks for one."""
_IN_ORDER = re.compile(
    r"\b(?:order|sequence|chronolog\w*|earlier|later|before|after|then|next|first|last|previous|happen\w*|mov(?:e|es|ed|ing)|"
    r"chang\w*|increas\w*|decreas\w*|becom\w*|added|removed|rotat\w*|turn(?:s|ed)?|from .{1,30} to)\b",
    re.IGNORECASE,
)
"""Speaks of what comes before what, which other orders of the images would change."""
_OF_ALL = re.compile(
    r"\b(?:all|every|each|any|both|total|odd|how many|how often|common|together|altogether)\b|"
    r"\b(?:across|between|among|number of)\b|"
    r"\b(?:no|not|none|without|missing|lacks?|only|most|least|fewest|\w+n['’]t)\b|"
    r"\b(?:same|identical|similar\w*|differ\w*|shares?|compar\w*|relat\w*|match\w*|belong)\b|"
    r"\b(?:two|three|four|five|six|seven|eight|these|the|\d+) (?:images|pictures|photos|photographs|views|frames)\b",
    re.IGNORECASE,
)
"""Questions about all images, or about none or only one: one image more may change their answers."""
_LAST = re.compile(
    rf"\b(?:last|final|right(?:most)?|bottom|lower|other|next)(?:[ -]\w+){{0,2}} {_IMAGE}\b", re.IGNORECASE
)
"""Speaks of an image by a place that one image more behind the others would take."""
_OF_OPTIONS = re.compile(
    r"(?i:\b(?:above|below|both|neither|either|all of|none|other options?|same as|only)\b)|"
    r"\b\(?[A-H]\)?\s*(?:,|&|/|and|or|nor)\s*\(?[A-H]\b|^\W*[A-Za-z]\W*$"
)
"""Speaks of other options, or is a letter, which their order would make another option's."""
_LETTERED = re.compile(r"(?:^|\s)\(?[A-H][).:]\s")
"""A question that lists its options itself."""


@dataclass(kw_only=True)
class VariantArguments(TaskArguments):
    """The tasks to vary, and the variations."""

    output_dir: str = field(metadata={"help": "Folder for tasks.jsonl and the pictures."})
    kinds: list[str] = field(
        default_factory=lambda: list(KINDS), metadata={"help": f"Variants to make: {', '.join(KINDS)}."}
    )
    distractors: str | None = field(
        default=None, metadata={"help": "Folder of pictures that show nothing asked about (default: noise)."}
    )
    seed: int = field(default=5, metadata={"help": "Seed of the orders and of the choice of distractors."})

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"--kinds {', '.join(unknown)}: the kinds are {', '.join(KINDS)}")


def _parts(task: Task) -> tuple[str, str]:
    """The marks and labels of images before the question's text, and the text."""
    end = match.end() if (match := _FRONT.match(task.question)) else 0
    return task.question[:end], task.question[end:]


def with_images_permuted(task: Task, rng: np.random.Generator) -> Task | None:
    """The task with its images in another order, or None where that would ask something else."""
    _, text = _parts(task)
    texts = (text, *task.choices, str(task.answer))
    if len(task.images) < 2 or MARK in text or any(map(_BY_PLACE.search, texts)) or any(map(_IN_ORDER.search, texts)):
        return None
    order = _another_order(len(task.images), rng)
    place = {before: now for now, before in enumerate(order)}
    metadata = dict(task.metadata)
    if isinstance(foci := metadata.get("foci"), (list, tuple)):
        metadata["foci"] = [[place[image] for image in focus] for focus in foci]
        # What is said along the chain may speak of images by their numbers.
        metadata = {key: value for key, value in metadata.items() if key == "foci" or key not in KEYS}
    boxes = tuple(replace(target, img_idx=place[target.img_idx]) for target in task.boxes)
    return replace(task, images=tuple(task.images[n] for n in order), boxes=boxes, metadata=metadata)


def with_options_permuted(task: Task, rng: np.random.Generator) -> Task | None:
    """The task with its options in another order, or None where they speak of each other or stand in the question."""
    if task.kind is not AnswerKind.CHOICE or len(task.choices) < 2 or _LETTERED.search(task.question):
        return None
    if any(map(_OF_OPTIONS.search, task.choices)):
        return None
    order = _another_order(len(task.choices), rng)
    right = order.index(ord(choice_letter(task)) - ord("A"))
    return replace(task, choices=tuple(task.choices[n] for n in order), answer=chr(ord("A") + right))


def with_distractor(task: Task, rng: np.random.Generator, pictures: Sequence[Path]) -> Task | None:
    """The task with one image more, or None where "the image" would become unclear or all images are asked about."""
    front, text = _parts(task)
    texts = (text, *task.choices)
    if len(task.images) < 2 or MARK in text or any(map(_OF_ALL.search, texts)) or _LAST.search(text):
        return None
    if pictures:
        more: Any = str(pictures[int(rng.integers(len(pictures)))])
    else:
        more = encode(Image.fromarray(rng.integers(0, 256, (*open_image(task.images[-1]).size[::-1], 3), np.uint8)))
    if front:
        label = IMAGE_LABEL.format(len(task.images)) if IMAGE_LABEL.format(0) in front else ""
        front = f"{front.rstrip()}{front[len(front.rstrip()) :] or ' '}{label}{MARK}{front[len(front.rstrip()) :]}"
    return replace(task, images=(*task.images, more), question=front + text)


def _another_order(number: int, rng: np.random.Generator) -> list[int]:
    """A permutation in which something moves."""
    while (order := rng.permutation(number).tolist()) == list(range(number)):
        pass
    return order


def with_variants(
    tasks: Sequence[Task], kinds: Sequence[str], *, seed: int = 0, pictures: Sequence[Path] = ()
) -> Iterator[Task]:
    """The tasks that can be varied, each before its variants."""
    make = {
        "images": with_images_permuted,
        "options": with_options_permuted,
        "distractor": lambda task, rng: with_distractor(task, rng, pictures),
    }
    for number, task in enumerate(tasks):
        made = {kind: make[kind](task, np.random.default_rng([seed, number, KINDS.index(kind)])) for kind in kinds}
        variants = {kind: variant for kind, variant in made.items() if variant is not None}
        yield from [task] if variants else []
        for kind, variant in variants.items():
            metadata = {**variant.metadata, "variant": {"of": task.id, "kind": kind}}
            yield replace(variant, id=f"{task.id}-{kind}", metadata=metadata)


def main() -> None:
    (arguments,) = parse((VariantArguments,), description=__doc__)
    refuse_written(Path(arguments.output_dir) / "tasks.jsonl")
    try:
        pictures = image_paths(arguments.distractors, Path(arguments.output_dir)) if arguments.distractors else []
        tasks = arguments.load_tasks()
        made = list(with_variants(tasks, arguments.kinds, seed=arguments.seed, pictures=pictures))
        if not made:
            raise ConfigError(f"none of {len(tasks)} tasks can be varied so: see --help for what is left out")
        save_tasks(made, Path(arguments.output_dir))
    except (OSError, ValueError, ConfigError) as error:
        raise SystemExit(str(error)) from error
    counts = Counter(task.metadata["variant"]["kind"] for task in made if "variant" in task.metadata)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in arguments.kinds)
    print(f"{len(made) - counts.total()} of {len(tasks)} tasks and their variants ({said}): {arguments.output_dir}")


if __name__ == "__main__":
    main()
