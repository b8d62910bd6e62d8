"""The rules of MIMIC (arXiv 2601.07812): the released code's own, with its faults, and a corrected one.

Released: a count is the whole reply as a number, else the number words in it, else its first digits. The common class
and the odd one are right if the reply holds the true name anywhere, so "hot dog" is a dog, and who names every class is
always right. A list is split at ", " after a blank was put before the reply, so that its first item never matches.

Corrected: a count is the only number of the reply. A class is right if the reply names it as words of their own, and no
other class, be it one of COCO, one that the images show, or another item of a list. A list is compared item by item,
whatever stands between or introduces it. Singular and plural are one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from fovea.answers.numbers import NUMBER_WORDS, TENS, to_number
from fovea.answers.text import as_items, as_list, list_score, normalized
from fovea.runs.records import Sample
from fovea.tasks import Task

_SPOKEN = {**NUMBER_WORDS, **TENS, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES = ("billion", "million", "thousand")
_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
"""
COCO = tuple(_COCO_NAMES.strip().replace("\n", " ").split(", "))
"""The 80 classes of COCO."""


def released(task: Task, reply: str) -> float:
    """The verdict of the released code; of a list the F1 of this reply alone, where the code pools all replies."""
    text = f" {reply}"
    if task.family == "counting":
        return float(_released_number(text).lower().strip() == str(task.answer).lower().strip())
    if task.family == "listing":
        return f1([_list_counts(reply, as_list(task.answer))])
    return float(any(str(name).lower().strip() in text.lower().strip() for name in as_list(task.answer)))


def pooled_f1(samples: Sequence[Sample]) -> float:
    """The released F1 of the lists of an evaluation: of all items of all replies together."""
    replies = (sample.turns[-1].text if sample.answer is None else sample.answer for sample in samples)
    return f1(_list_counts(reply, as_list(sample.reference)) for reply, sample in zip(replies, samples, strict=True))


def f1(counts: Iterable[Sequence[int]]) -> float:
    """The harmonic mean of precision and recall over rows of (found, said, true), pooled."""
    found, said, true = (sum(column) for column in zip(*counts, strict=True))
    return 2 * found / (said + true) if found else 0.0


def _list_counts(reply: str, truth: Sequence[str]) -> tuple[int, int, int]:
    """True items that the released code finds, items that it reads in the reply, and items in the reference."""
    said = [item.lower() for item in f" {reply}".split(", ")]
    return sum(str(item).lower() in said for item in truth), len(said), len(truth)


def _released_number(text: str) -> str:
    """The number that the released code reads, as text."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        return str(spoken_number(text))
    except (ValueError, IndexError):
        digits = re.search(r"\d+", text)
        return digits[0] if digits else "wrong answer"


def spoken_number(text: str) -> float:
    """The number words of a sentence as one number, as word2number 1.1 joins them: "two cats and three dogs" is 5.

    Sentences with two scales (million and thousand) come to another large number there.

    Raises:
        ValueError: for a text without number words, or with one of its scales twice or out of order.
        IndexError: for a scale without a number before it.

    >>> spoken_number("I see twenty-one dogs"), spoken_number("two cats and three dogs")
    (21, 5)
    """
    text = text.replace("-", " ").lower()
    if text.isdigit():
        return int(text)
    words = [word for word in text.split() if word in _SPOKEN or word == "point"]
    whole, *parts = " ".join(words).split("point")
    named = whole.split()
    scales = [word for word in named if word in _SCALES]
    if not words or len(parts) > 1 or scales != [word for word in _SCALES if word in scales]:
        raise ValueError(f"{text!r:.40} is no number in words")
    total: float = _SPOKEN[named[0]] if len(named) == 1 else 0
    if len(named) > 1:
        for scale in scales:
            place = named.index(scale)
            total += _joined(named[:place]) * _SPOKEN[scale]
            named = named[place + 1 :]
        total += _joined(named) if named else 0
    decimals = [_SPOKEN[word] for word in parts[0].split()] if parts else []
    if decimals and all(digit < 10 for digit in decimals):
        total += float(f"0.{''.join(map(str, decimals))}")
    return total


def _joined(words: Sequence[str]) -> int:
    numbers = [_SPOKEN[word] for word in words]
    if len(numbers) == 2:
        return numbers[0] * numbers[1] if 100 in numbers else sum(numbers)
    return numbers[0] * numbers[1] + sum(numbers[2:]) if len(numbers) in (3, 4) else numbers[0]


def corrected(task: Task, reply: str) -> float:
    """The verdict of a careful reader: 0 or 1, and the F1 of a list."""
    if task.family == "counting":
        return float(to_number(reply) == float(task.answer))
    if task.family == "listing":
        return list_score(task, _class_names(task).sub(_INTRODUCTION.sub("", reply)))
    truths = {normalized(str(name)) for name in as_list(task.answer)}
    named = _named(task, reply)
    return float(bool(named) and named <= truths)


def _named(task: Task, reply: str) -> set[str]:
    """The classes that a reply names; the items of a reply that is a list, whether they are classes or not."""
    names = _class_names(task)
    items = {normalized(names.sub(item)) for item in as_items(_INTRODUCTION.sub("", reply))}
    if len(items) > 1 and all(len(item.split()) <= MOST_WORDS for item in items):
        return items
    return names.found(reply)


_INTRODUCTION = re.compile(r"^[^,;\n]*:")
"""The introduction of a list, such as "The images show:"."""
MOST_WORDS = 3
"""Of an item of a list: longer ones are parts of a sentence."""


class _Names:
    """Names of classes, as words of their own; of "hot dog" and "dog" the longer one where both fit."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {form: name for name in names for form in (*plurals(name), name)}
        forms = sorted(self.names, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)")

    def found(self, text: str) -> set[str]:
        return {self.names[form] for form in self.pattern.findall(self._plain(text))}

    def sub(self, text: str) -> str:
        """The text with plurals in the singular."""
        return self.pattern.sub(lambda match: self.names[match[0]], self._plain(text))

    @staticmethod
    def _plain(text: str) -> str:
        return re.sub(r"[^\S\n]+", " ", text.lower())


def _class_names(task: Task) -> _Names:
    """The classes that are known where a task is answered: COCO's, its own, and those that its images show."""
    own = (*as_list(task.answer), *task.metadata.get("present", ()))
    return _names_of(frozenset(normalized(str(name)) for name in own))


@lru_cache(maxsize=1024)
def _names_of(own: frozenset[str]) -> _Names:
    return _Names({*own, *COCO})


_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen",
}  # fmt: skip


def plurals(name: str) -> set[str]:
    """Forms in which several of a class are named, and one of a class that is called as several are.

    >>> [sorted(plurals(name)) for name in ("wine glass", "knife", "skis", "person", "dog")]
    [['wine glasses'], ['knifes', 'knives'], ['ski', 'skises'], ['people', 'persons'], ['dogs']]
    """
    start, blank, word = name.rpartition(" ")
    if re.search(r"(?:ss|x|z|ch|sh)$", word):
        forms = {f"{word}es"}
    elif word.endswith("s"):
        forms = {f"{word}es", word[:-1]}
    elif re.search(r"[^aeiou]y$", word):
        forms = {f"{word[:-1]}ies"}
    elif match := re.search(r"fe?$", word):
        forms = {f"{word}s", f"{word[: match.start()]}ves"}
    else:
        forms = {f"{word}s", f"{word}es"} if word.endswith("o") else {f"{word}s"}
    forms |= {_IRREGULAR[word]} if word in _IRREGULAR else set()
    return {f"{start}{blank}{form}" for form in forms}
