"""Options as public benchmarks write them: in one text, with letters in front."""

from __future__ import annotations

import re
from string import ascii_uppercase

_OPTION = re.compile(r"^\s*\(?([A-Z])(?:\)|[.:])\s*(.*)$", re.DOTALL)
_OPTION_LINE = re.compile(r"^(?=\(?[A-Z][):.]\s)", re.MULTILINE)
"""Where an option begins: a line without a letter goes on with the one before."""


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
    r"""The options of a text in which each begins a line with its letter, and may go on over several.

    >>> option_lines("A: one\nmore of it\nB: two\n")
    ['A: one\nmore of it\n', 'B: two\n']
    """
    return [option for option in _OPTION_LINE.split(text) if option.strip()]
