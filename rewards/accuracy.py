"""Whether an answer is right, by the kind of answer. Rules only: no judge model is needed."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from fovea.boxes import Box, Frame, iou
from fovea.episodes import Episode
from fovea.tasks import AnswerKind, Task

RELATIVE_TOLERANCE = 1e-4
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_CHOICE = (
    re.compile(r"^\W*([A-Z])\W*$", re.IGNORECASE),
    re.compile(r"^\W*([A-Z])[.):\]*]"),
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"(?i:answer|choice|option)(?i:\s+is)?[\s:*\"'`(]+([A-Z])(?![\w'])"),
    re.compile(r"(?:answer|choice|option)(?:\s+is)?[\s:*\"'`(]+([A-Z])\W*$", re.IGNORECASE),
)
"""A letter that is all of the answer, stands in front of an option, in brackets, or after "answer is"."""


def accuracy(task: Task, episode: Episode) -> float:
    """1.0 for a right final answer, 0.0 for a wrong or missing one; lists and boxes score in between (F1, IoU)."""
    return score(task, episode.answer) if episode.answer is not None else 0.0


def score(task: Task, answer: str) -> float:
    """How right `answer` is for `task`, 0 to 1."""
    return _SCORERS[task.kind](task, answer)


def normalized(text: str) -> str:
    """Lower case, one space between words, no outer punctuation, no leading article."""
    text = unicodedata.normalize("NFKC", text).strip().lower()
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'`()[]{}*")
    return re.sub(r"^(?:the|an?) ", "", text)


def to_number(text: str) -> float | None:
    """The only number in a text (digits or a number word); None where there is none or more than one.

    >>> to_number("about 1,200 px"), to_number("three"), to_number("3 or 4")
    (1200.0, 3.0, None)
    """
    plain = normalized(text)
    if plain in NUMBER_WORDS:
        return float(NUMBER_WORDS[plain])
    found = _NUMBER.findall(plain)
    if len(found) != 1:
        return None
    value = float(found[0].replace(",", ""))
    if plain.startswith("-" + found[0]):
        value = -value
    return value * 0.01 if plain.endswith("%") else value


def _number(task: Task, answer: str) -> float:
    expected, given = to_number(str(task.answer)), to_number(answer)
    if expected is None:
        raise ValueError(f"reference {task.answer!r} of task {task.id} is not a number: use kind text")
    return float(given is not None and math.isclose(expected, given, rel_tol=RELATIVE_TOLERANCE))


def _text(task: Task, answer: str) -> float:
    accepted = task.answer if isinstance(task.answer, (list, tuple)) else [task.answer]
    return float(normalized(answer) in {normalized(str(reference)) for reference in accepted})


def _yes_no(task: Task, answer: str) -> float:
    words = re.findall(r"[a-z]+", answer.lower())
    said = {word for word in words if word in ("yes", "no")}
    return float(said == {normalized(str(task.answer))})


def _choice(task: Task, answer: str) -> float:
    """By letter, or by the text of the option; an answer that names several options is wrong."""
    letters = [chr(65 + index) for index in range(max(len(task.choices), 4))]
    reference = str(task.answer).strip(" ().").upper()
    if reference not in letters:
        matches = [i for i, choice in enumerate(task.choices) if normalized(choice) == normalized(str(task.answer))]
        if len(matches) != 1:
            raise ValueError(f"reference {task.answer!r} of task {task.id} is neither a letter nor one of its choices")
        reference = letters[matches[0]]
    texts = [i for i, choice in enumerate(task.choices) if normalized(choice) == normalized(answer)]
    if len(texts) == 1:
        return float(letters[texts[0]] == reference)
    named = {letter.upper() for form in _CHOICE for letter in form.findall(answer.strip())}
    return float(named == {reference})


def _list(task: Task, answer: str) -> float:
    """F1 over the distinct items of a comma-separated list."""
    expected = {
        normalized(str(item)) for item in (task.answer if isinstance(task.answer, (list, tuple)) else [task.answer])
    }
    given = {item for item in (normalized(part) for part in re.split(r",|;|\n|\band\b", answer)) if item}
    shared = len(expected & given)
    return 2 * shared / (len(expected) + len(given)) if expected or given else 1.0


def _box(task: Task, answer: str) -> float:
    """IoU with the reference box, both as four numbers in the same frame."""
    expected, given = _four_numbers(task.answer), _four_numbers(answer)
    if expected is None:
        raise ValueError(f"reference {task.answer!r} of task {task.id} is not a box: use [x1, y1, x2, y2]")
    if given is None:
        return 0.0
    a, b = Box(*expected, Frame.ORIGINAL), Box(*given, Frame.ORIGINAL)
    return 0.0 if a.is_empty or b.is_empty else iou(a, b)


def _four_numbers(value: Any) -> tuple[float, float, float, float] | None:
    numbers = value
    if isinstance(value, str):
        try:
            numbers = json.loads(value)
        except ValueError:
            numbers = [float(number.replace(",", "")) for number in re.findall(r"-?\d+(?:\.\d+)?", value)]
    if not isinstance(numbers, (list, tuple)) or len(numbers) != 4:
        return None
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        return None
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3]))


def _math(task: Task, answer: str) -> float:
    """Mathematical equality, by math-verify."""
    from math_verify import parse, verify

    return float(verify(parse(f"${task.answer}$"), parse(f"${answer}$" if "$" not in answer else answer)))


_SCORERS: dict[AnswerKind, Callable[[Task, str], float]] = {
    AnswerKind.CHOICE: _choice,
    AnswerKind.YES_NO: _yes_no,
    AnswerKind.NUMBER: _number,
    AnswerKind.TEXT: _text,
    AnswerKind.LIST: _list,
    AnswerKind.BOX: _box,
    AnswerKind.MATH: _math,
}
