"""Chains of Focus-Centric Visual Chain (arXiv 2504.20199): sub-questions with the images each needs, and their answers.

A chain [(q, G, a, z), …] has two written forms. In an episode of the focus environment q, G and the a before stand in a
call; the last a is the thought of the turn that answers. As one text, which is the paper's form, each step has four
lines. In both, z is told by the end: the step before the answer is the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fovea.episodes import Episode
from fovea.tasks import Task

KEYS = ("sub_questions", "foci", "sub_answers")
"""Entries of a task's metadata that say its chain: lists of one length, each of `foci` a list of image numbers."""
_STEP = re.compile(
    r"Question (\d{1,4}): *(\S[^\n]*)\nImages: *(\d{1,4}(?: *, *\d{1,4})*) *\n"
    r"Answer: *(\S[^\n]*)\nStop: *(yes|no) *(?:\n\s*|\Z)"
)


class ChainError(ValueError):
    """A mistake in a chain, with its place."""


@dataclass(frozen=True)
class Step:
    """A sub-question, the numbers of the images that it needs, and its answer."""

    question: str
    images: tuple[int, ...]
    answer: str


@dataclass(frozen=True)
class Chain:
    """Steps in their order, and the final answer."""

    steps: tuple[Step, ...]
    answer: str = ""

    @property
    def images(self) -> tuple[int, ...]:
        """Those that its steps need, in ascending order."""
        return tuple(sorted({image for step in self.steps for image in step.images}))

    def metadata(self) -> dict[str, list]:
        """The entries by which a task keeps its chain."""
        rows = [(step.question, list(step.images), step.answer) for step in self.steps]
        return {key: [row[place] for row in rows] for place, key in enumerate(KEYS)}


def chain_of_task(task: Task) -> Chain | None:
    """The chain that a task's metadata says; None if it has none.

    Raises:
        ChainError: for entries that make no chain of the task's images.
    """
    questions, foci, answers = (task.metadata.get(key) for key in KEYS)
    if foci is None:
        return None
    if not _is_list(foci) or not all(_are_images(focus, len(task.images)) for focus in foci):
        raise ChainError(
            f"metadata.foci is {foci!r:.200}: it must be a list of lists of different image numbers, from 0 to "
            f"{len(task.images) - 1}"
        )
    for key, values in (("sub_questions", questions), ("sub_answers", answers)):
        if values is not None and (not _is_list(values) or len(values) != len(foci)):
            raise ChainError(f"metadata.{key} is {values!r:.200}: it must be a list as long as foci, {len(foci)}")
    rows = zip(questions or [""] * len(foci), foci, answers or [""] * len(foci), strict=True)
    return Chain(tuple(Step(str(asked), tuple(focus), str(said)) for asked, focus, said in rows), str(task.answer))


def chain_of(episode: Episode) -> Chain | None:
    """The chain of an episode: of its focus calls, or else the one written in the thoughts of its only turn."""
    if not episode.turns:
        return None
    thought = episode.turns[-1].text.rpartition("</think>")[0].strip().removeprefix("<think>").strip()
    foci, answer = episode.foci, episode.answer or ""
    if foci:
        answers = [*(focus.answered for focus in foci[1:]), thought if episode.answer is not None else ""]
        steps = (Step(focus.question, focus.images, said) for focus, said in zip(foci, answers, strict=True))
        return Chain(tuple(steps), answer)
    try:
        return Chain(read_steps(thought), answer)
    except ChainError:
        return None


def written_steps(steps: Sequence[Step]) -> str:
    """Steps as text, four lines each.

    >>> print(written_steps([Step("Which digit is on the red cross?", (0, 2), "7")]))
    Question 1: Which digit is on the red cross?
    Images: 0, 2
    Answer: 7
    Stop: yes
    """
    lines: list[str] = []
    for number, step in enumerate(steps, start=1):
        images = ", ".join(map(str, step.images))
        lines += [f"Question {number}: {_line(step.question)}", f"Images: {images}", f"Answer: {_line(step.answer)}"]
        lines.append(f"Stop: {'yes' if number == len(steps) else 'no'}")
    return "\n".join(lines)


def read_steps(text: str) -> tuple[Step, ...]:
    """The steps of such a text.

    Raises:
        ChainError: for a text that is no chain: other lines, numbers out of order, a stop before the last step.

    >>> read_steps("Question 1: How many?\\nImages: 1\\nAnswer: 3\\nStop: yes")
    (Step(question='How many?', images=(1,), answer='3'),)
    """
    steps: list[Step] = []
    place, has_stopped = 0, False
    while place < len(text):
        found = _STEP.match(text, place)
        if found is None or int(found[1]) != len(steps) + 1 or has_stopped:
            raise ChainError(
                f"step {len(steps) + 1} is {text[place : place + 120]!r}: write Question {len(steps) + 1}, Images, "
                "Answer and Stop, a line each. The last step alone has `Stop: yes`"
            )
        steps.append(Step(found[2].strip(), tuple(map(int, found[3].split(","))), found[4].strip()))
        place, has_stopped = found.end(), found[5] == "yes"
    if not has_stopped:
        raise ChainError("the last step does not say `Stop: yes`" if steps else "there are no steps")
    return tuple(steps)


def problem_of(chain: Chain, num_images: int) -> str | None:
    """The first mistake in a chain: a missing text, or an image that does not exist; None if there is none."""
    for number, step in enumerate(chain.steps, start=1):
        if not step.question.strip() or not step.answer.strip():
            return f"step {number} has no {'answer' if step.question.strip() else 'question'}"
        if not _are_images(step.images, num_images):
            return f"step {number} names the images {list(step.images)} of {num_images}"
    return None if chain.steps else "it has no steps"


def _are_images(focus: Any, num_images: int) -> bool:
    is_list = _is_list(focus) and 0 < len(focus) == len({*map(str, focus)})
    return is_list and all(type(image) is int and 0 <= image < num_images for image in focus)


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes, Mapping))


def _line(text: str) -> str:
    return " ".join(text.split())
