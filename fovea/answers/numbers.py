"""Answers that are one number, in digits of any script or as a word."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from fovea.answers.text import DASH, MINUS, OUTER, is_plain, without_latex
from fovea.tasks import Task

RELATIVE_TOLERANCE = 1e-4
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}
_SPOKEN = {**NUMBER_WORDS, **TENS} | {
    f"{ten}{sign}{word}": TENS[ten] + NUMBER_WORDS[word]
    for ten in TENS
    for word in _WORDS.split()[1:10]
    for sign in "- "
}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALE = re.compile(rf"(?:(?<!\S)(\S+) )?\b({'|'.join(_SCALES)})(s?)\b")
"""A scale and the word before it: "two hundred", "5 million", "a dozen"."""
_SPOKEN_NUMBER = re.compile(rf"\b({'|'.join(sorted(_SPOKEN, key=len, reverse=True))})\b")
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])\.\d+(?:[eE][-+]?\d+)?)"
)
"""Digits with what belongs to them; a sign only where no letter or digit stands before it."""
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_POWER_OF_TEN = re.compile(r"(?<=\d)\s*(?:[x*\u00d7\u00b7]|\\times|\\cdot)\s*10\^\{?([-+\u2212]?\d+)\}?")
_UNIT_POWER = re.compile(r"(\d\s*(?:[kcdmnµ]?m|px|in|ft|yd|mi))\^?[23](?!\w)")
"""An exponent of a unit of length behind a number: 7 m2, 12 cm^2."""
_NONE = re.compile(r"(?:there (?:is|are|were) )?none(?: (?:at all|visible|here))?")
_NO_SUCH = re.compile(r"(?:there (?:is|are|were) )?no ([a-z ]{3,}?)(?: (?:at all|visible|here))?")
PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ONE = re.compile(
    r"(?:\b(?:is|are|was|were|only|just|exactly|about|(?:total|count|sum) of|see|saw|count(?:ed)?|find|found|have|has"
    r"|had|contains?|shows?|total|equals?|answer|number|makes?|there's|it's)\b|[:=])[\s*_\"'(]*one\b"
    r"(?! (?:of|that|which|who|whose|with)\b)"
)
"""The word as a count: not "no one", "the red one", "it is one of those"."""
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")


def to_number(text: str) -> float | None:
    """The only number in a text (digits of any script, or a number word); None where there is none or more than one.

    Exponents of units are no numbers, and a percentage is a share.

    >>> to_number("about 1,200 px"), to_number("three"), to_number("3 or 4"), to_number("\u22125 m\u00b2")
    (1200.0, 3.0, None, -5.0)
    >>> to_number("1/2"), to_number("minus twenty-one"), to_number("2,50"), to_number("50 percent")
    (0.5, -21.0, 2.5, 0.5)
    >>> to_number("two hundred"), to_number("5 million people"), to_number("hundreds"), to_number("No.7")
    (200.0, 5000000.0, None, 7.0)
    """
    number, is_percentage = _read(text)
    return number * 0.01 if number is not None and is_percentage else number


def _read(text: str) -> tuple[float | None, bool]:
    """The only number in a text, and whether a percent sign stands beside it."""
    text = DASH.sub("-", without_latex(_FRACTION.sub(r"\1/\2", text)).translate(MINUS))
    text = _POWER_OF_TEN.sub(r"e\1", text)
    text = re.sub(rf"(?<=[^\W\d_]){_RAISED.pattern}", "", _UNIT_POWER.sub(r"\1", text))
    plain_text = _RAISED.sub(lambda match: f" {match[0]} ", _GROUPED.sub("", text))
    plain_text = unicodedata.normalize("NFKC", plain_text).strip().lower()
    plain_text = re.sub(r"\bper ?cent\b", "%", re.sub(r"\b(?:minus|negative) (?=\w)", "-", plain_text))
    is_percentage = "%" in plain_text
    bare_text = plain_text.strip(OUTER + "%")
    if _NONE.fullmatch(bare_text):
        return 0.0, is_percentage
    if fraction := re.fullmatch(r"(-?\d{1,9})\s*/\s*(\d{1,9})", bare_text):
        return (int(fraction[1]) / int(fraction[2]) if int(fraction[2]) else None), is_percentage
    if re.fullmatch(r"-?\d+,\d{1,2}", bare_text):
        return float(bare_text.replace(",", ".")), is_percentage
    if scales := _SCALE.findall(plain_text):
        return _scaled(plain_text, *scales[0]) if len(scales) == 1 else None, is_percentage
    numbers, words = _NUMBER.findall(plain_text), _SPOKEN_NUMBER.findall(plain_text)
    if not numbers and len(words) == 1 and (words != ["one"] or bare_text.startswith("one") or _ONE.search(bare_text)):
        sign = -1 if re.search(rf"(?<!\w)-{words[0]}", plain_text) else 1
        return float(sign * _SPOKEN[words[0]]), is_percentage
    if len(numbers) != 1:
        return None, is_percentage
    value = float(numbers[0].replace(",", ""))
    if any(_SPOKEN[word] != abs(value) for word in words if word != "one"):  # "the red one says 7", "12 (twelve)"
        return None, is_percentage
    return (value if math.isfinite(value) else None), is_percentage


def _scaled(plain_text: str, before: str, scale: str, plural: str) -> float | None:
    """So many dozens, hundreds, …, if the text has no other number; "dozens of" says none."""
    number, _ = (1.0, False) if before in ("a", "an") else _read(before)
    rest = plain_text.replace(f"{before} {scale}{plural}", "")
    if number is None or plural or _NUMBER.search(rest) or _SPOKEN_NUMBER.search(rest):
        return None
    return number * _SCALES[scale]


_GROUPED = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))|(?<=^\\d) (?=\\d{3}$)|(?<=^\\d\\d) (?=\\d{3}$)")
"""A space that groups digits by thousands: a narrow one anywhere, a plain one where the number is the whole text."""
_MARKED = re.compile(r"[-+]?[$€£¥₹]?\s?[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s?[%$€£¥₹]?")


def is_number(text: str) -> bool:
    """Returns True if a text is one number in digits and nothing else; a sign of currency or percent is allowed."""
    return _MARKED.fullmatch(text.strip()) is not None and to_number(text) is not None


def number_score(task: Task, answer: str) -> float:
    """1.0 if the answer's only number is the reference.

    Where one of them alone bears a percent sign it may mean the number or the share: 50% is right for 50 and for 0.5.
    """
    (reference, in_percent), (given, is_percentage) = _read(str(task.answer)), _read(answer)
    if reference is None:
        raise ValueError(f"reference {task.answer!r} of task {task.id} is not a number: use kind text")
    if given is None and (match := _NO_SUCH.fullmatch(answer.strip(OUTER).lower())):
        given = 0.0 if re.search(rf"\b{match[1]}\b", task.question.lower()) else None  # "no cars", "no idea"
    if given is None:
        return 0.0
    ways = [(reference, given)]
    if in_percent != is_percentage:
        ways.append((reference * 0.01, given) if in_percent else (reference, given * 0.01))
    return float(any(math.isclose(wanted, found, rel_tol=RELATIVE_TOLERANCE) for wanted, found in ways))


def check_number(task: Task, answer: Any) -> Any:
    if isinstance(answer, (bool, list, tuple)) or not is_plain(answer) or to_number(str(answer)) is None:
        raise ValueError(f"answer {answer!r} is not one number: write it in digits, or use kind text")
    return answer
