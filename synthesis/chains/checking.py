"""Whether a chain is what it says: each step is answered from its focus and not without it, the end from all alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from fovea.answers import score
from fovea.answers.telling import holds, tells
from fovea.chains import Chain
from fovea.data.references import kind_of_text
from fovea.tasks import AnswerKind, Task

Look = Callable[[str, Mapping[int, Image.Image]], str]
"""Answers a question by numbered images."""


def problems(question: str, chain: Chain, images: Mapping[int, Image.Image], look: Look) -> Iterator[str]:
    """What is wrong with a chain on its images: the kind, a colon, and where."""
    final = _asked(question, chain.answer)
    steps = [_asked(step.question, step.answer) for step in chain.steps]
    told = re.sub(r"\bimages? \d+(?:(?:,| and|, and) (?:image )?\d+)*", "", question)
    if any(tells(told, step) for step in steps) or tells(told, final):
        yield "told: the final question holds an answer"
    for number, (step, task) in enumerate(zip(chain.steps, steps, strict=True), start=1):
        within = {image: images[image] for image in step.images}
        if not _is_right(task, look(step.question, within)):
            yield f"not answerable: step {number} from images {list(step.images)}"
        elif _is_right(task, look(step.question, {n: image for n, image in images.items() if n not in within})):
            yield f"answerable without: step {number} from all but images {list(step.images)}"
    if not _is_right(final, look(question, images)):
        yield "not answerable: the final question from all images"
        return
    for left_out in chain.images:
        if _is_right(final, look(question, {n: image for n, image in images.items() if n != left_out})):
            yield f"answerable without: the final question from all but image {left_out}"


def _asked(question: str, answer: Any) -> Task:
    """A question as a task of the kind that its answer suggests."""
    return Task("", (), question, answer, kind_of_text(answer))


def _is_right(task: Task, answer: str) -> bool:
    """By the task's own rule; a text is also right within a sentence."""
    return score(task, answer) > 0.99 or (task.kind is AnswerKind.TEXT and holds(answer, str(task.answer)))
