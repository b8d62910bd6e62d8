"""Options as public benchmarks write them: in one text, with letters in front."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Any

from fovea.answers.choices import misleading
from fovea.placeholders import PLACEHOLDER

_OPTION = re.compile(r"^\s*\(?([A-Z])(?:\)|[.:])\s*(.*)$", re.DOTALL)


def split_options(text: str) -> tuple[str, list[str]]:
    """A question and its options, of a text with `(A) …` lines or runs.

    >>> split_options("Which?\\n(A) red\\n(B) dark blue\\nAnswer with the letter.")
    ('Which?', ['red', 'dark blue'])
    """
    parts = re.split(r"\(([A-F])\)\s*", text)
    options = [part.split("\n")[0].strip() for part in parts[2::2]]
    return parts[0].strip(), options


def plain_options(options: list[str]) -> list[str]:
    """Options without the letters in front of them.

    >>> plain_options(["(A) red", "B. blue", "C: a (big) dog"]), plain_options(["red", "blue"])
    (['red', 'blue', 'a (big) dog'], ['red', 'blue'])
    """
    matches = [_OPTION.match(option) for option in options]
    if all(match and match[1] == letter for match, letter in zip(matches, ascii_uppercase, strict=False)):
        return [match[2].strip() for match in matches if match]
    return options


def option_lines(text: str) -> list[str]:
    r"""The options of a text in which each begins a line with the next letter, and may go on over several.

    >>> option_lines("A: one\nmore of it\nB:two\n")
    ['A: one\nmore of it\n', 'B:two\n']
    """
    options: list[str] = []
    for line in text.splitlines(keepends=True):
        if re.match(rf"\s*\(?{ascii_uppercase[len(options) % 26]}[):.]", line):
            options.append(line)
        elif options:
            options[-1] += line
    return options


def asked_with(question: str, options: list[str]) -> dict[str, Any]:
    """The columns of a question and its options. What no answer could name by its text stands in the question alone.

    Such options are images, equal to each other, or letters of others. An answer then names a letter, and rules find
    their texts in the task's metadata (`asked`).
    """
    if not misleading(options) and not any(PLACEHOLDER in option for option in options):
        return {"question": question, "choices": options}
    lettered = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return {
        "question": "\n".join([question, *lettered]),
        "choices": [],
        "kind": "choice",
        "asked": {"options": options},
    }
