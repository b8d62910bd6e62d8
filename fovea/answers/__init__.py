"""Answers by kind: what may stand as a reference, how an answer is read, and when it is right. Rules only.

Three functions hold for every kind. `checked_reference` cures or refuses a reference where it enters, `written` writes
it as an answer, and `score` compares. Their invariant: a reference that was let in scores 1 as written. `readable`
tells it to people.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

from fovea.answers.boxes import box_score, reference_boxes, written_boxes
from fovea.answers.choices import check_choice, choice_letter, choice_score, letters_of
from fovea.answers.numbers import PLAIN_NUMBER, check_number, number_score
from fovea.answers.text import as_list, check_list, check_text, check_yes_no, list_score, text_score, yes_no_score
from fovea.boxes import Frame, Framing
from fovea.tasks import AnswerKind, Task

_TAGGED = re.compile(r"\s*(?:<think>.*</think>)?\s*<answer>(.*)</answer>\s*", re.DOTALL)


def score(task: Task, answer: str, framing: Framing | None = None) -> float:
    """The score of `answer` for `task`, 0 to 1. `framing` gives the frame in which the answer's boxes are written."""
    if task.kind is AnswerKind.BOX:
        return box_score(task, answer, framing)
    return _SCORERS[task.kind](task, answer)


def constant_of(task: Task, answer: str | None = None) -> str:
    """An answer, or the reference, as it compares over questions: of a choice its letter, however it is written."""
    text = str(task.answer) if answer is None else answer
    letters = letters_of(task, text) if task.kind is AnswerKind.CHOICE else set()
    return letters.pop() if len(letters) == 1 else text


def written(task: Task, framing: Framing | None = None) -> str:
    """The reference as an answer that scores 1: of texts that are all accepted the first; boxes in `framing`."""
    if task.kind is AnswerKind.BOX:
        return written_boxes(reference_boxes(task), framing or Framing(Frame.UNIT, ()))
    if task.kind is AnswerKind.LIST:
        return ", ".join(map(str, as_list(task.answer)))
    return str(as_list(task.answer)[0])


def readable(task: Task) -> str:
    """The reference in the words of a page: all accepted texts, an option with its text, boxes as shares of images."""
    if task.kind is AnswerKind.BOX:
        boxes = [(target, ", ".join(f"{value:.3f}" for value in target.box.coordinates))
                 for target in reference_boxes(task)]  # fmt: skip
        return "; ".join(f"[{text}]" + (f" on image {target.img_idx}" if len(task.images) > 1 else "")
                         for target, text in boxes)  # fmt: skip
    if task.kind is AnswerKind.CHOICE and task.choices:
        letter = choice_letter(task)
        return f"{letter}. {task.choices[ascii_uppercase.index(letter)]}"
    between = ", " if task.kind is AnswerKind.LIST else " or "
    return between.join(map(str, as_list(task.answer)))


def checked_reference(task: Task) -> Any:
    """The task's reference, cured where it can only mean one thing.

    Raises:
        ValueError: for a reference that its own rule could never call right, or by which two answers would be.
    """
    answer = _untagged(task.answer)
    check = _CHECKS.get(task.kind)
    return check(task, answer) if check else answer


def verify_reference(task: Task) -> None:
    """Raises ValueError unless the task's reference scores 1 under its own rule.

    Mathematical references are taken as they are where math-verify is not installed; plain numbers are not asked
    about, since it takes milliseconds a row.
    """
    if task.kind is AnswerKind.MATH and PLAIN_NUMBER.fullmatch(str(task.answer)):
        return
    try:
        own_score = score(task, written(task), Framing(Frame.UNIT, ()))
    except ImportError:
        return
    if not math.isclose(own_score, 1):
        raise ValueError(
            f"answer {task.answer!r} scores {own_score:g} under its own rule ({task.kind.value}): name another kind"
        )


def _untagged(answer: Any) -> Any:
    """The answer without `<answer>` tags around it."""
    if isinstance(answer, (list, tuple)):
        return [_untagged(item) for item in answer]
    match = _TAGGED.fullmatch(answer) if isinstance(answer, str) else None
    return match[1].strip() if match else answer


def math_score(task: Task, answer: str) -> float:
    """Mathematical equality, by math-verify."""
    from math_verify import parse, verify

    # Its timeouts are signals, which only the main thread can set.
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    reference, given = (
        parse(text, parsing_timeout=seconds)
        for text in (f"${task.answer}$", f"${answer}$" if "$" not in answer else answer)
    )
    return float(verify(reference, given, timeout_seconds=seconds))


_SCORERS: dict[AnswerKind, Callable[[Task, str], float]] = {
    AnswerKind.CHOICE: choice_score,
    AnswerKind.YES_NO: yes_no_score,
    AnswerKind.NUMBER: number_score,
    AnswerKind.TEXT: text_score,
    AnswerKind.LIST: list_score,
    AnswerKind.MATH: math_score,
}
_CHECKS: dict[AnswerKind, Callable[[Task, Any], Any]] = {
    AnswerKind.CHOICE: check_choice,
    AnswerKind.YES_NO: check_yes_no,
    AnswerKind.NUMBER: check_number,
    AnswerKind.TEXT: check_text,
    AnswerKind.LIST: check_list,
}
