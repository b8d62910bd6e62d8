"""Answers that are one number, in digits of any script or as a word."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from fovea.answers.text import OUTER, is_plain, normalized
from fovea.tasks import Task

RELATIVE_TOLERANCE = 1e-4
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\d.])\.\d+(?:[eE][-+]?\d+)?)"
)
"""Digits with what belongs to them; a sign only where no letter or digit stands before it."""
_MINUS = dict.fromkeys(map(ord, "\u2212\uff0d\ufe63"), "-")
_DASH = re.compile("(?<!\\w)[\u2010-\u2014](?=[\\d.])")
"""A dash that is written for a minus: before digits, and behind no word."""
PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")


def to_number(text: str) -> float | None:
    """The only number in a text (digits of any script, or a number word); None where there is none or more than one.

    Exponents of units are no numbers.

    >>> to_number("about 1,200 px"), to_number("three"), to_number("3 or 4"), to_number("\u22125 m\u00b2")
    (1200.0, 3.0, None, -5.0)
    """
    text = _DASH.sub("-", text.translate(_MINUS))
    text = re.sub(rf"(?<=[^\W\d_]){_RAISED.pattern}", "", text)
    plain_text = _RAISED.sub(lambda match: f" {match[0]} ", text)
    plain_text = unicodedata.normalize("NFKC", plain_text).strip().lower()
    if (word := normalized(plain_text)) in NUMBER_WORDS:
        return float(NUMBER_WORDS[word])
    other_words = NUMBER_WORDS.keys() & set(re.findall(r"[a-z]+", plain_text)) - {"one"}  # "the red one says 7"
    numbers = _NUMBER.findall(plain_text)
    if len(numbers) != 1 or other_words:
        return None
    value = float(numbers[0].replace(",", ""))
    if not math.isfinite(value):
        return None
    return value * 0.01 if plain_text.rstrip(OUTER).endswith("%") else value


def number_score(task: Task, answer: str) -> float:
    reference_number, answer_number = to_number(str(task.answer)), to_number(answer)
    if reference_number is None:
        raise ValueError(f"reference {task.answer!r} of task {task.id} is not a number: use kind text")
    return float(
        answer_number is not None and math.isclose(reference_number, answer_number, rel_tol=RELATIVE_TOLERANCE)
    )


def check_number(task: Task, answer: Any) -> Any:
    if isinstance(answer, (bool, list, tuple)) or not is_plain(answer) or to_number(str(answer)) is None:
        raise ValueError(f"answer {answer!r} is not one number: write it in digits, or use kind text")
    return answer
