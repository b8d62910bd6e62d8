"""Detects texts that tell the answer to a task, which a thought before a zoom, or advice, must not do."""

from __future__ import annotations

import re
from string import ascii_uppercase

from fovea.answers.choices import choice_letter
from fovea.answers.text import as_list
from fovea.tasks import AnswerKind, Task

COMMON = frozenset(
    ("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "i", "in", "is", "it", "no", "not", "of", "on",
     "or", "part", "so", "that", "the", "this", "to", "we", "yes")
)  # fmt: skip
"""Words that any sentence may hold: as an answer they are not told by it."""


_TOLD = (
    r"\({letter}\)|(?i:answer|(?:right|correct) (?:choice|option))(?i:\s+is)?[\s:*\"'`]+{letter}(?![\w'])"
    r"|(?<![\w']){letter}\W{{0,3}}\s?(?i:is (?:the )?(?:right|correct|answer))"
)
"""A letter in brackets, or said to be the answer: "option A" alone only speaks of it."""


def tells(text: str, task: Task) -> bool:
    """Returns True if a text holds the right answer as separate words. Words of the question itself do not count."""
    if task.kind is AnswerKind.CHOICE:  # all options stand in the question; the letter, or the option alone, tells
        letter = choice_letter(task)
        if re.search(_TOLD.format(letter=letter), text):
            return True
        place = ascii_uppercase.index(letter)
        others = [choice for number, choice in enumerate(task.choices) if number != place]
        right = task.choices[place] if task.choices else letter
        return holds(text, right) and not any(holds(text, choice) for choice in others)
    return any(holds(text, str(answer)) and not holds(task.prompt, str(answer)) for answer in as_list(task.answer))


def holds(text: str, words: str) -> bool:
    """Returns True if a text holds these words; numbers match with or without their commas."""
    sought = words.strip().lower()
    if not sought or sought in COMMON:
        return False
    plain = (re.sub(r"(?<=\d),(?=\d{3})", "", some.lower()) for some in (text, sought))
    held, needle = plain
    return re.search(rf"(?<!\w)(?<!\d\.){re.escape(needle)}(?!\w|\.\d)", held) is not None
