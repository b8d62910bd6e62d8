"""Answers that are words: texts, lists of them, yes and no."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection
from typing import Any

from fovea.tasks import Task

OUTER = " .,;:!?\"'`()[]{}*\u3001\u3002\u300c\u300d\u300e\u300f\u3010\u3011"
"""Punctuation around an answer, that of Chinese and Japanese included (full-width forms are made plain before)."""
MINUS = dict.fromkeys(map(ord, "\u2212\uff0d\ufe63"), "-")
DASH = re.compile("(?<!\\w)[\u2010-\u2014](?=[\\d.])")
"""A dash that is written for a minus: before digits, and behind no word."""
_QUOTES = {ord(curly): straight for curly, straight in zip("\u2018\u2019\u201c\u201d", "''\"\"", strict=True)}


_BOXED = re.compile(r"\$*\s*\\(?:boxed|text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}\s*\$*")
"""A frame or a font of LaTeX around a text."""


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` of a text, with nested braces; None without one.

    >>> boxed(r"so \boxed{\frac{1}{2}}."), boxed(r"\boxed{\text{a cat}}")
    ('\\frac{1}{2}', 'a cat')
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            content = text[start + 7 : place]
            plain = _BOXED.fullmatch(content)
            return plain[1] if plain else content
    return None


def without_latex(text: str) -> str:
    r"""The text without frames and fonts of LaTeX.

    >>> without_latex(r"so $\boxed{\text{B}}$."), without_latex("$B$")
    ('so B.', 'B')
    """
    while (plain := _BOXED.sub(r"\1", text)) != text:
        text = plain
    return re.sub(r"^\$+([^$]+)\$+$", r"\1", text.strip())


def as_list(value: Any) -> list[Any]:
    """The items of a list or tuple, or the value alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def normalized(text: str) -> str:
    """Lower case, one space between words, no outer punctuation, no leading article; punctuation alone stays.

    >>> normalized(" The  Red car. "), normalized("?!")
    ('red car', '?!')
    """
    text = DASH.sub("-", unicodedata.normalize("NFKC", text.translate(MINUS)).translate(_QUOTES))
    text = re.sub(r"\s+", " ", text).strip().lower()
    text = text.strip(OUTER) or text
    return re.sub(r"^(?:the|an?) (?=.)", "", text)


def text_score(task: Task, answer: str) -> float:
    return float(normalized(answer) in {normalized(str(reference)) for reference in as_list(task.answer)})


def check_text(task: Task, answer: Any) -> Any:
    accepted_texts = as_list(answer)
    if not accepted_texts or any(not is_plain(text) or not str(text).strip() for text in accepted_texts):
        raise ValueError(f"answer {answer!r} is no text, nor a list of accepted texts: write one of these")
    return answer


def is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and not (isinstance(value, float) and not math.isfinite(value))


_YES_NO = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


_CLAUSE = re.compile("[.,;:!?\n\u2013\u2014]")


def yes_no_score(task: Task, answer: str) -> float:
    """1.0 if the answer says yes or no, as the reference, and not both.

    Clauses that are yes or no (or true, false) alone decide: "Yes, there is no other". Without one all words do.
    """
    return float(yes_or_no_in(answer) == {normalized(str(task.answer))})


def yes_or_no_in(answer: str) -> set[str]:
    """The set of "yes" and "no" that an answer says."""
    plain = re.sub(r"\bno (?:doubt|question)\b", "", normalized(answer))
    said = {_YES_NO.get(normalized(clause)) for clause in _CLAUSE.split(plain)} - {None}
    words = re.findall(r"[a-z]+", plain)
    found = {*words} & {"yes", "no"}
    if not found and not re.search(r"\bnot\b|n't\b", plain):  # "it is not true" is left unread
        found = {_YES_NO[word] for word in words if word in _YES_NO}
    return {word for word in said or found if word}


def check_yes_no(task: Task, answer: Any) -> str:
    yes_or_no = _YES_NO.get(normalized(str(answer)))
    if yes_or_no is None:
        raise ValueError(f"answer {answer!r} is neither yes nor no (true and false are read so): use kind text")
    return yes_or_no


_SEPARATOR = re.compile("[,;\n\uff0c\u3001\uff1b]")
_NUMBERED = re.compile(r"(?:^|\s)\d+[.)]\s")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


def list_score(task: Task, answer: str) -> float:
    """F1 over the distinct items of a list, separated by commas, semicolons, lines, or "and"."""
    expected_items = {normalized(str(item)) for item in as_list(task.answer)}
    answered_items = as_items(answer, expected_items)
    num_shared = len(expected_items & answered_items)
    return 2 * num_shared / (len(expected_items) + len(answered_items)) if expected_items or answered_items else 1.0


def as_items(answer: str, whole: Collection[str] = ()) -> set[str]:
    """The distinct items of a list in words, normalized; those in `whole` are not split at "and"."""
    items: set[str] = set()
    if _NUMBERED.match(answer):
        answer = _NUMBERED.sub("\n", answer)
    for part in (normalized(_BULLET.sub("", part)) for part in _SEPARATOR.split(answer)):
        items |= {part} if part in whole else set(map(normalized, re.split(r"\band\b|&", part)))
    return items - {""}


def check_list(task: Task, answer: Any) -> list[Any]:
    items = as_list(answer)
    if isinstance(answer, str) and len(items := [part.strip() for part in _SEPARATOR.split(answer)]) < 2:
        items = [answer]
    normalized_items = [normalized(str(item)) for item in items]
    if not items or not all(map(is_plain, items)) or not all(normalized_items):
        raise ValueError(f"answer {answer!r} is no list of texts: give its items, at least one, none of them empty")
    for item in items:
        if _SEPARATOR.search(str(item)):
            raise ValueError(f"item {item!r} of the answer holds a separator: split it, or use kind text")
    if len(set(normalized_items)) < len(normalized_items):
        raise ValueError(f"items of the answer {answer!r} are the same: give each once")
    return items
