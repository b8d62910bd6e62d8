"""Answers by kind: what may stand as a reference, how an answer is read, and when it is right. Rules only.

Three functions hold for every kind. `checked_reference` cures or refuses a reference where it enters, `written` writes
it as an answer, and `score` compares. Their invariant: a reference that was let in scores 1 as written.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from fovea.boxes import Frame, Framing, iou
from fovea.tasks import AnswerKind, Target, Task

RELATIVE_TOLERANCE = 1e-4
MAX_CHOICES = len(ascii_uppercase)
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\d.])\.\d+(?:[eE][-+]?\d+)?)"
)
"""Digits with what belongs to them; a sign only where no letter or digit stands before it."""
_CHOICE = (
    re.compile(r"^\W*([A-Z])\W*$", re.IGNORECASE),
    re.compile(r"^\W*([A-Z])[.):\]*]"),
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"(?i:answer|choice|option)(?i:\s+is)?[\s:*\"'`(]+([A-Z])(?![\w'])"),
    re.compile(r"(?:answer|choice|option)(?:\s+is)?[\s:*\"'`(]+([A-Z])\W*$", re.IGNORECASE),
)
"""A letter that is all of the answer, stands in front of an option, in brackets, or after "answer is"."""
_TAGGED = re.compile(r"\s*(?:<think>.*</think>)?\s*<answer>(.*)</answer>\s*", re.DOTALL)
_OUTER = " .,;:!?\"'`()[]{}*"


def score(task: Task, answer: str, framing: Framing | None = None) -> float:
    """How right `answer` is for `task`, 0 to 1; `framing` says in which frame the boxes of an answer are written."""
    if task.kind is AnswerKind.BOX:
        return _box_score(task, answer, framing)
    return _SCORERS[task.kind](task, answer)


def written(task: Task, framing: Framing | None = None) -> str:
    """The reference as an answer that scores 1: of texts that are all accepted the first; boxes in `framing`."""
    if task.kind is AnswerKind.BOX:
        return written_boxes(reference_boxes(task), framing or Framing(Frame.UNIT, ()))
    if task.kind is AnswerKind.LIST:
        return ", ".join(map(str, as_list(task.answer)))
    return str(as_list(task.answer)[0])


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
    if task.kind is AnswerKind.MATH and _PLAIN_NUMBER.fullmatch(str(task.answer)):
        return
    try:
        found = score(task, written(task), Framing(Frame.UNIT, ()))
    except ImportError:
        return
    if not math.isclose(found, 1):
        raise ValueError(
            f"answer {task.answer!r} scores {found:g} under its own rule ({task.kind.value}): name another kind"
        )


def as_list(value: Any) -> list[Any]:
    """The items of a list or tuple, or the value alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _untagged(answer: Any) -> Any:
    """The answer without `<answer>` tags around it."""
    if isinstance(answer, (list, tuple)):
        return [_untagged(item) for item in answer]
    match = _TAGGED.fullmatch(answer) if isinstance(answer, str) else None
    return match[1].strip() if match else answer


# --- text -----------------------------------------------------------------------------------------------------------


def normalized(text: str) -> str:
    """Lower case, one space between words, no outer punctuation, no leading article; punctuation alone stays.

    >>> normalized(" The  Red car. "), normalized("?!")
    ('red car', '?!')
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).strip().lower())
    text = text.strip(_OUTER) or text
    return re.sub(r"^(?:the|an?) (?=.)", "", text)


def _text(task: Task, answer: str) -> float:
    return float(normalized(answer) in {normalized(str(reference)) for reference in as_list(task.answer)})


def _check_text(task: Task, answer: Any) -> Any:
    accepted = as_list(answer)
    if not accepted or any(not _is_plain(text) or not str(text).strip() for text in accepted):
        raise ValueError(f"answer {answer!r} is no text, nor a list of texts that are all accepted")
    return answer


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and not (isinstance(value, float) and not math.isfinite(value))


# --- numbers --------------------------------------------------------------------------------------------------------

_MINUS = dict.fromkeys(map(ord, "\u2212\uff0d\ufe63"), "-")
_DASH = re.compile("(?<!\\w)[\u2010-\u2014](?=[\\d.])")
"""A dash that is written for a minus: before digits, and behind no word."""
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")


def to_number(text: str) -> float | None:
    """The only number in a text (digits of any script, or a number word); None where there is none or more than one.

    Exponents of units are no numbers.

    >>> to_number("about 1,200 px"), to_number("three"), to_number("3 or 4"), to_number("\u22125 m\u00b2")
    (1200.0, 3.0, None, -5.0)
    """
    text = _DASH.sub("-", text.translate(_MINUS))
    text = re.sub(rf"(?<=[^\W\d_]){_RAISED.pattern}", "", text)
    plain = _RAISED.sub(lambda raised: f" {raised[0]} ", text)
    plain = unicodedata.normalize("NFKC", plain).strip().lower()
    if (word := normalized(plain)) in NUMBER_WORDS:
        return float(NUMBER_WORDS[word])
    others = NUMBER_WORDS.keys() & set(re.findall(r"[a-z]+", plain)) - {"one"}  # "the red one says 7"
    found = _NUMBER.findall(plain)
    if len(found) != 1 or others:
        return None
    value = float(found[0].replace(",", ""))
    if not math.isfinite(value):
        return None
    return value * 0.01 if plain.rstrip(_OUTER).endswith("%") else value


def _number(task: Task, answer: str) -> float:
    expected, given = to_number(str(task.answer)), to_number(answer)
    if expected is None:
        raise ValueError(f"reference {task.answer!r} of task {task.id} is not a number: use kind text")
    return float(given is not None and math.isclose(expected, given, rel_tol=RELATIVE_TOLERANCE))


def _check_number(task: Task, answer: Any) -> Any:
    if isinstance(answer, (bool, list, tuple)) or not _is_plain(answer) or to_number(str(answer)) is None:
        raise ValueError(f"answer {answer!r} is not one number: write it in digits, or use kind text")
    return answer


# --- yes or no ------------------------------------------------------------------------------------------------------

_YES_NO = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


def _yes_no(task: Task, answer: str) -> float:
    words = re.findall(r"[a-z]+", answer.lower())
    return float({word for word in words if word in ("yes", "no")} == {normalized(str(task.answer))})


def _check_yes_no(task: Task, answer: Any) -> str:
    said = _YES_NO.get(normalized(str(answer)))
    if said is None:
        raise ValueError(f"answer {answer!r} is neither yes nor no (true and false are read so): use kind text")
    return said


# --- choices --------------------------------------------------------------------------------------------------------


def _choice(task: Task, answer: str) -> float:
    """By letter, or by the text of the option; an answer that names several options is wrong."""
    right = choice_letter(task)
    letters = _letters(task)
    texts = [i for i, choice in enumerate(task.choices) if normalized(choice) == normalized(answer)]
    if len(texts) == 1:
        return float(letters[texts[0]] == right)
    named = {letter.upper() for form in _CHOICE for letter in form.findall(answer.strip())}
    # Letters that stand alone name options too; "A" and "I" also are words, which a small letter beside them shows.
    alone = {letter for pair in _ALONE_LETTER.findall(answer) for letter in pair if letter and letter in letters}
    spelled = {letters[i] for i, choice in enumerate(task.choices) if _holds(answer, choice)}
    others = (alone | spelled) - {right}
    return float(named == {right} and not others)


_ALONE_LETTER = re.compile(r"(?<![\w'])([B-HJ-Z])(?![\w'])|(?<![\w'])([AI])(?![\w'])(?! [a-z])")


def _holds(answer: str, choice: str) -> bool:
    """Whether a text of at least three characters stands in an answer as words of its own."""
    name = normalized(choice)
    return len(name) >= 3 and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", normalized(answer)) is not None


def _letters(task: Task) -> str:
    """The letters of a task's options; all of them where their texts stand in the question."""
    return ascii_uppercase[: len(task.choices)] if task.choices else ascii_uppercase


def choice_letter(task: Task) -> str:
    """The letter of the right option.

    Raises:
        ValueError: if the reference is neither the letter nor the text of just one option.
    """
    texts = [i for i, choice in enumerate(task.choices) if normalized(choice) == normalized(str(task.answer))]
    if len(texts) == 1:
        return ascii_uppercase[texts[0]]
    letter = str(task.answer).strip(" ().").upper()
    if len(letter) == 1 and letter in _letters(task):
        return letter
    among = f"none of the choices {list(task.choices)}, nor the letter of one" if task.choices else "no letter"
    raise ValueError(f"answer {task.answer!r} is {among}")


def _check_choice(task: Task, answer: Any) -> Any:
    choices = task.choices
    if len(choices) > MAX_CHOICES:
        raise ValueError(f"{len(choices)} choices are more than there are letters ({MAX_CHOICES})")
    if len(choices) == 1:
        raise ValueError(f"one choice alone, {choices[0]!r}, leaves nothing to choose")
    known: dict[str, str] = {}
    for letter, choice in zip(ascii_uppercase, choices, strict=False):
        if (name := normalized(choice)) in known:
            raise ValueError(f"choices {known[name]} and {letter} are the same, {choice!r}")
        known[name] = letter
        if len(name) == 1 and name.upper() in _letters(task) and name.upper() != letter:
            raise ValueError(f"choice {letter} reads {choice!r}, the letter of another: give the choices other texts")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise ValueError(f"answer {answer!r} is no choice: write its letter or its text")
    choice_letter(replace(task, answer=answer))
    return answer


# --- lists ----------------------------------------------------------------------------------------------------------

_SEPARATOR = re.compile(r"[,;\n]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


def _list(task: Task, answer: str) -> float:
    """F1 over the distinct items of a list, separated by commas, semicolons, lines, or "and"."""
    expected = {normalized(str(item)) for item in as_list(task.answer)}
    given: set[str] = set()
    for part in (normalized(_BULLET.sub("", part)) for part in _SEPARATOR.split(answer)):
        given |= {part} if part in expected else set(map(normalized, re.split(r"\band\b", part)))
    given.discard("")
    shared = len(expected & given)
    return 2 * shared / (len(expected) + len(given)) if expected or given else 1.0


def _check_list(task: Task, answer: Any) -> list[Any]:
    items = as_list(answer)
    if isinstance(answer, str) and len(items := [part.strip() for part in _SEPARATOR.split(answer)]) < 2:
        items = [answer]
    names = [normalized(str(item)) for item in items]
    if not items or not all(map(_is_plain, items)) or not all(names):
        raise ValueError(f"answer {answer!r} is no list of texts: give its items, at least one, none of them empty")
    for item in items:
        if _SEPARATOR.search(str(item)):
            raise ValueError(f"item {item!r} of the answer holds a separator: split it, or use kind text")
    if len(set(names)) < len(names):
        raise ValueError(f"items of the answer {answer!r} are the same")
    return items


# --- boxes ----------------------------------------------------------------------------------------------------------

_BOX_KEYS = ("bbox_2d", "bbox", "box", "box_2d", "coordinates")
_DECIMAL = r"\s*(-?\d+(?:\.\d+)?)\s*"
_IN_BRACKETS = re.compile(rf"[\[(<{{]{','.join([_DECIMAL] * 4)}[\])>}}]")
_IN_PAIRS = re.compile(rf"[(\[]{_DECIMAL},{_DECIMAL}[)\]]\s*,?\s*[(\[]{_DECIMAL},{_DECIMAL}[)\]]")
_ALONE = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)")


def boxes_in(text: str) -> list[tuple[tuple[float, ...], int | None]]:
    """The boxes that a text holds, four numbers each, and the image that each one names, if it does.

    JSON of any depth (Qwen's `[{"bbox_2d": [x1, y1, x2, y2], "label": "…"}]`), brackets, pairs of points, or four
    numbers alone.

    >>> boxes_in('[{"bbox_2d": [1, 2, 3, 4], "label": "cup 2"}]'), boxes_in("bbox_2d of 3 cups")
    ([((1.0, 2.0, 3.0, 4.0), None)], [])
    """
    with suppress(RecursionError):
        if found := [box for data in _json_values(text) for box in _boxes_of(data)]:
            return found
    for form in (_IN_BRACKETS, _IN_PAIRS):
        if matches := [numbers for numbers in (tuple(map(float, m)) for m in form.findall(text))]:
            return [(numbers, None) for numbers in matches if is_four_numbers(numbers)]
    alone = tuple(map(float, _ALONE.findall(text)))
    return [(alone, None)] if is_four_numbers(alone) else []


def _json_values(text: str) -> Iterator[Any]:
    """The JSON lists and objects in a text, one after the other."""
    position = 0
    while match := re.compile(r"[\[{]").search(text, position):
        try:
            data, position = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            position = match.start() + 1
        else:
            yield data


def _boxes_of(data: Any, image: int | None = None) -> Iterator[tuple[tuple[float, ...], int | None]]:
    """Boxes anywhere in JSON."""
    if isinstance(data, dict):
        named = data.get("img_idx", image)
        named = named if isinstance(named, int) and not isinstance(named, bool) else image
        for value in (data[key] for key in _BOX_KEYS if key in data):
            yield from _boxes_of(value, named)
        if not any(key in data for key in _BOX_KEYS):
            for value in data.values():
                yield from _boxes_of(value, named)
    elif isinstance(data, list) and is_four_numbers(data):
        yield tuple(map(float, data)), image
    elif isinstance(data, list):
        for value in data:
            yield from _boxes_of(value, image)


def is_four_numbers(value: Any) -> bool:
    """Whether a value is a list of four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def reference_boxes(task: Task) -> list[Target]:
    """The boxes of a reference of kind box, in UNIT: as loading leaves it, a list of `Target.to_dict()`.

    Raises:
        ValueError: for anything else.
    """
    try:
        targets = [Target.from_dict(item) for item in as_list(task.answer)]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"reference {task.answer!r} of task {task.id} is no box with its frame: "
            '{"coordinates": [x1, y1, x2, y2], "frame": "unit"}'
        ) from None
    if any(target.box.frame is not Frame.UNIT for target in targets):
        raise ValueError(
            f"reference {task.answer!r} of task {task.id} is not in frame unit: fovea.task_files makes it so"
        )
    return targets


def written_boxes(targets: Sequence[Target], framing: Framing) -> str:
    """Boxes as an answer in the frame of a model: one as four numbers, several as a list of such."""
    boxes = [framing.write(target.box, target.img_idx) for target in targets]
    return json.dumps(boxes[0] if len(boxes) == 1 else boxes)


def answer_boxes(task: Task, answer: str, framing: Framing | None) -> list[Target]:
    """The boxes of an answer in UNIT, those without an area left out.

    Raises:
        ValueError: if it is not known in which frame they are written.
    """
    found = boxes_in(answer)
    if not found:
        return []
    if framing is None:
        raise ValueError(
            f"task {task.id} asks for a box, and in which frame the model wrote one is not known: give the environment "
            "a property `framing` (docs/my_environment.md); a run of before version 0.2 has to be played again"
        )
    roots = {target.img_idx for target in reference_boxes(task)}
    default = roots.pop() if len(roots) == 1 else 0
    targets = []
    for numbers, image in found:
        image = default if image is None or not 0 <= image < max(1, len(task.images)) else image
        box = framing.read(numbers, image)
        if not box.is_empty:
            targets.append(Target(box, image))
    return targets


def _as_writable(target: Target, framing: Framing) -> Target:
    """The target in the whole units of a model's frame, unless nothing were left of it."""
    rounded = framing.read(framing.write(target.box, target.img_idx), target.img_idx)
    return target if rounded.is_empty else Target(rounded, target.img_idx)


def _box_score(task: Task, answer: str, framing: Framing | None) -> float:
    """Mean IoU of the best matching between reference and answer boxes; each one too many or too few counts as 0.

    References are rounded as the model has to round, so that the best that it can write scores 1.
    """
    given = answer_boxes(task, answer, framing)
    if framing is None or not given:
        return 0.0
    expected = [_as_writable(target, framing) for target in reference_boxes(task)]
    table = [[iou(a.box, b.box) if a.img_idx == b.img_idx else 0.0 for b in given] for a in expected]
    most = max(len(expected), len(given))
    if min(len(expected), len(given)) == 1:
        return max(max(row) for row in table) / most
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table, maximize=True)
    return sum(table[row][column] for row, column in zip(rows, columns, strict=True)) / most


# --- mathematics ----------------------------------------------------------------------------------------------------


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
    AnswerKind.MATH: _math,
}
_CHECKS: dict[AnswerKind, Callable[[Task, Any], Any]] = {
    AnswerKind.CHOICE: _check_choice,
    AnswerKind.YES_NO: _check_yes_no,
    AnswerKind.NUMBER: _check_number,
    AnswerKind.TEXT: _check_text,
    AnswerKind.LIST: _check_list,
}
