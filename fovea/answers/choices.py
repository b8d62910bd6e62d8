"""Answers that name one of several options, by letter or by text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from fovea.answers.text import boxed, normalized, without_latex, yes_or_no_in
from fovea.tasks import Task

MAX_CHOICES = len(ascii_uppercase)
_NAMING = "answer|choice|option|\u7b54\u6848|\u9009\u9879"
_CHOICE = (
    re.compile(r"^\W*([A-Z])\W*$", re.IGNORECASE),
    re.compile(r"^\W*([A-Z])[.):\]*]"),
    re.compile(r"^\W*([a-z])[.)\]](?!\w)"),
    re.compile(r"(?<!\w)\(([A-Z])\)", re.IGNORECASE),
    re.compile(rf"(?i:{_NAMING})(?i:\s+is)?[\s:*\"'`(]+([A-Z])(?![\w'])"),
    re.compile(rf"(?:{_NAMING})(?:\s+is)?[\s:*\"'`(]+([A-Z])\W*$", re.IGNORECASE),
)
"""A letter that is all of the answer, stands in front of an option, in brackets, or after "answer is"."""


def choice_score(task: Task, answer: str) -> float:
    """By letter, or by the text of the option; an answer that names several options is wrong."""
    return float(letters_of(task, answer) == {choice_letter(task)})


def letters_of(task: Task, answer: str) -> set[str]:
    """The letters of all options that an answer names, none where it names none."""
    raw = unicodedata.normalize("NFKC", answer)
    answer = without_latex(boxed(raw) or raw)
    letters = _letters(task)
    if written := _option_written(raw, task.choices) or _option_written(answer, task.choices):
        return written
    named = {letter.upper() for pattern in _CHOICE for letter in pattern.findall(answer.strip())}
    # Letters that stand alone name options too; "A" and "I" also are words, which a small letter beside them shows.
    lone_letters = {
        letter for groups in _ALONE_LETTER.findall(answer) for letter in groups if letter and letter in letters
    }
    spelled_letters = {letters[i] for text in {raw, answer} for i in _spelled(text, task.choices)}
    # What stands alone only speaks against what is named: "I see a B" names nothing.
    return named | spelled_letters | lone_letters if named or spelled_letters else set()


_LETTERED = re.compile(
    rf"\W*(?:(?i:(?:the )?(?:{_NAMING})(?:\s+is)?)[\s:*\"'`]+)?[(\[*]*"
    r"([A-Z]|[a-z](?=[)\].:*]))(?:[)\].:*\s]|-(?=\s))+(?:is\s+)?(.+)",
    re.DOTALL,
)
"""A letter and the text behind it, perhaps after "the answer is"."""


def _option_written(answer: str, choices: tuple[str, ...]) -> set[str]:
    """The letter of the option that is all of the answer, or whose text stands behind a letter, and that letter.

    What such a text says is no answer: "(C) Both A and B" names C.
    """
    letters_by_text = {text: ascii_uppercase[i] for text, i in _indices_by_text(choices).items()}
    if letter := letters_by_text.get(normalized(answer)):
        return {letter}
    lettered = _LETTERED.fullmatch(answer.strip())
    letter = lettered and letters_by_text.get(normalized(lettered[2]))
    return {lettered[1].upper(), letter} if lettered and letter else set()


_ALONE_LETTER = re.compile(r"(?<![\w'])([B-HJ-Z])(?![\w'])|(?<![\w'])([AI])(?![\w'])(?! [a-z])")


def _spelled(answer: str, choices: tuple[str, ...]) -> set[int]:
    """The options whose text stands in the answer as words or numbers of its own; single letters are read as letters.

    The longest is read first: "dark red" does not spell "red" as well. Yes and no are read as answers of that kind are.
    """
    indices_by_text = _indices_by_text(choices)
    if {"yes", "no"} == set(indices_by_text):
        return {indices_by_text[word] for word in yes_or_no_in(answer)}
    texts = [text for text in indices_by_text if not re.fullmatch("[a-z]", text)]
    pattern = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    alone = rf"(?<!\w)(?<!\d[.,])(?<![-+](?=\d))({pattern})(?!\w)(?![.,]\d)"  # no part of a word or a number
    return {indices_by_text[text] for text in re.findall(alone, normalized(answer)) if text}


def _indices_by_text(choices: tuple[str, ...]) -> dict[str, int]:
    """The place of each option by its text as it compares, with its LaTeX and without."""
    texts = [{normalized(choice), normalized(without_latex(choice))} for choice in choices]
    found = {text: i for i, forms in enumerate(texts) for text in forms}
    return found | {normalized(choice): i for i, choice in enumerate(choices)}


def _letters(task: Task) -> str:
    """The letters of a task's options; all of them where their texts stand in the question."""
    return ascii_uppercase[: len(task.choices)] if task.choices else ascii_uppercase


def choice_letter(task: Task) -> str:
    """The letter of the right option.

    Raises:
        ValueError: if the reference is neither the letter nor the text of just one option.
    """
    matches = [i for i, choice in enumerate(task.choices) if normalized(choice) == normalized(str(task.answer))]
    if len(matches) == 1:
        return ascii_uppercase[matches[0]]
    letter = str(task.answer).strip(" ().").upper()
    if len(letter) == 1 and letter in _letters(task):
        return letter
    problem = f"none of the choices {list(task.choices)}, nor the letter of one" if task.choices else "no letter"
    raise ValueError(
        f"answer {task.answer!r} is {problem}: write the letter or the text of the right choice, not its place"
    )


def misleading(choices: Sequence[str]) -> str | None:
    """The reason that texts of options are ambiguous: two are the same, or one is another's letter. Else None."""
    letters_by_text: dict[str, str] = {}
    for letter, choice in zip(ascii_uppercase, choices, strict=False):
        if (text := normalized(choice)) in letters_by_text:
            return (
                f"choices {letters_by_text[text]} and {letter} are the same, {choice!r}: give the choices other texts"
            )
        letters_by_text[text] = letter
        if len(text) == 1 and text.upper() in ascii_uppercase[: len(choices)] and text.upper() != letter:
            return f"choice {letter} reads {choice!r}, the letter of another: give the choices other texts"
    return None


def check_choice(task: Task, answer: Any) -> Any:
    choices = task.choices
    if len(choices) > MAX_CHOICES:
        raise ValueError(
            f"{len(choices)} choices are more than there are letters ({MAX_CHOICES}): leave some out, or use kind text"
        )
    if len(choices) == 1:
        raise ValueError(f"one choice alone, {choices[0]!r}, leaves nothing to choose: give two, or leave choices out")
    if problem := misleading(choices):
        raise ValueError(problem)
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise ValueError(f"answer {answer!r} is no choice: write its letter or its text")
    choice_letter(replace(task, answer=answer))
    return answer
