"""Checks of chains: each step is answered from its focus and not without it, the end from all images alone."""

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
from synthesis.chains.roles import list_of_reply, text_of_reply

Look = Callable[[str, Mapping[int, Image.Image]], str]
"""Answers a question by numbered images."""


def problems(question: str, chain: Chain, images: Mapping[int, Image.Image], look: Look) -> Iterator[str]:
    """Problems of a chain on its images: the kind, a colon, and the place."""
    final = _asked(question, chain.answer)
    steps = [_asked(step.question, step.answer) for step in chain.steps]
    told = _IMAGE_NUMBERS.sub("", question)
    if any(tells(told, step) for step in steps) or _tells_itself(told, final):
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


def read_problems(value: Any) -> list[str]:
    """The problems of a line of the checks; none if the chain passed.

    Raises:
        RoleError: for a line that was mended into something else.
    """
    return [text_of_reply(problem) for problem in list_of_reply(value)]


def _asked(question: str, answer: Any) -> Task:
    """A question as a task of the kind that its answer suggests."""
    return Task("", (), question, answer, kind_of_text(answer))


def _tells_itself(question: str, task: Task) -> bool:
    """True if a final question holds its own answer, other than as one of the choices that it offers."""
    return task.kind is AnswerKind.TEXT and holds(question, str(task.answer)) and not _OFFERS.search(question)


def _is_right(task: Task, answer: str) -> bool:
    """By the task's own rule; a text is also right within a sentence that neither denies it nor names another."""
    if _IS_UNTOLD.search(answer):
        return False
    if score(task, answer) > 0.99:
        return True
    words = re.escape(str(task.answer).strip())
    beside = re.sub(rf"(?<!\w){words}(?!\w)", "", answer, flags=re.IGNORECASE)
    return task.kind is AnswerKind.TEXT and holds(answer, str(task.answer)) and not _IS_OPEN.search(beside)


_IMAGE_NUMBERS = re.compile(r"\bimages? \d+(?:(?:,|,? and|,? or) (?:image )?\d+)*", re.IGNORECASE)
_OFFERS = re.compile(r"\bor\b|\b(?:which|who|what) of\b", re.IGNORECASE)
_IS_UNTOLD = re.compile(
    r"\b(?:can(?: ?not|['’]?t)|could(?: not|n['’]t)|unable|impossible|not possible)\b(?:\s+\w+){0,3}?\s+"
    r"(?:tell|told|say|said|see|seen|know|known|determine|determined|answer|answered|identify|identified)\b|"
    r"\b(?:do not|don['’]t) know\b|\bun(?:known|clear) (?:if|whether)\b|^\W*un(?:known|clear)\W*$",
    re.IGNORECASE,
)
"""Says that the answer cannot be told."""
_IS_OPEN = re.compile(r"\b(?:not?|never|none|neither|nor|cannot|or)\b|n['’]t\b", re.IGNORECASE)
"""Denies something, or names an alternative."""
