"""Was the reply right, by whose rule? The rules of published harnesses beside the strict one that rewards use.

A rule reads one option (or value) out of a reply and compares it with the reference. `lmms-eval` is that tool's rule
for the benchmark, `vlmevalkit` VLMEvalKit's for multiple choice without a judge. Both read a reply without tags too.
Beside them stands `strict`, which is the headline accuracy (`rewards.accuracy`): it reads the answer in its tags, and
takes none that names two options. Where a published rule is known to err it errs here too: that is what a number under
its name means. `tests/evaluation/test_scoring.py` holds them to the tools' own verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from evaluation import mimic
from fovea.answers.choices import choice_letter
from fovea.tasks import AnswerKind, Task

Rule = Callable[[Task, str], bool | float]


def options(task: Task) -> Sequence[str]:
    """The texts of a task's options, also where they stand in its question alone (`evaluation.options.asked_with`)."""
    return task.choices or task.texts("options")


def letters(task: Task) -> str:
    """The letters of a task's options, A to D where it lists none."""
    return ascii_uppercase[: len(options(task)) or 4]


def verdicts(task: Task, reply: str) -> dict[str, float]:
    """Scores of a reply by the rules of the published tools for this benchmark, by name."""
    rules = PUBLISHED.get(str(task.metadata.get("benchmark")), {})
    return {name: float(rule(task, reply)) for name, rule in rules.items()}


# --- VLMEvalKit, and HR-Bench in lmms-eval, which has an older copy of it -------------------------------------------

_REFUSALS = ("Sorry, I can't help with images of people yet.", "I can't process this file.",
             "I'm sorry, but without the image provided", "Cannot determine the answer")  # fmt: skip
_STATED = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


def vlmevalkit(task: Task, reply: str) -> bool:
    """A single option letter among the last words, else a stated answer, else the one option whose text occurs."""
    letter = _only_letter(task, reply, last_words=5)
    if letter is None and (match := _STATED.search(reply)) and match[1].upper() in letters(task):
        letter = match[1].upper()
    is_short = len(reply) <= 2 * sum(map(len, options(task)))
    return (letter or (_only_text(task, reply) if is_short else None)) == choice_letter(task)


def _hr_bench(task: Task, reply: str) -> bool:
    """As VLMEvalKit's, wherever the letter stands and however long the reply is. What it leaves to a judge is wrong."""
    reply = reply.strip()
    if "Failed to obtain answer via API" in reply:
        return _only_text(task, reply) == choice_letter(task)
    return (_only_letter(task, reply) or _only_text(task, reply)) == choice_letter(task)


def _only_letter(task: Task, reply: str, *, last_words: int | None = None) -> str | None:
    """The option that is named by its letter as a word, if just one is; Z for a refusal."""
    if any(refusal in reply for refusal in _REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    named_letters = [letter for letter in letters(task) if letter in words]
    if not named_letters and "Z" in words:
        return "Z"
    if len(named_letters) != 1 or (last_words is not None and words.index(named_letters[0]) <= len(words) - last_words):
        return None
    return named_letters[0]


def _only_text(task: Task, reply: str) -> str | None:
    """The option whose text occurs in the reply, if just one's does."""
    matching_letters = [
        letters(task)[number] for number, text in enumerate(options(task)) if text.lower() in reply.lower()
    ]
    return matching_letters[0] if len(matching_letters) == 1 else None


# --- lmms-eval 0.7.3, benchmark by benchmark ------------------------------------------------------------------------


def _vstar(task: Task, reply: str) -> bool:
    text = reply.strip().upper()
    patterns = (
        r"^([A-D])\s*[\.)\]]*",
        r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*(?:\.|\)|])",
        r"(?:^|\s)([A-D])(?:\s|$)",
    )
    for pattern in patterns:
        if match := re.search(pattern, text):
            return match[1] == choice_letter(task)
    all_letters = re.findall("[A-D]", text)
    return len(all_letters) == 1 and all_letters[0] == choice_letter(task)


def _muirbench(task: Task, reply: str) -> bool:
    return _letter_and_stop(reply).lower().strip() == str(task.answer).lower().strip()


def _letter_and_stop(reply: str) -> str:
    """`B` of a reply that begins with `B.`, else the reply."""
    match = re.match(r"\s*([A-Z])\.", reply)
    return match[1] if match else reply


def _mme_realworld(task: Task, reply: str) -> bool:
    """The first of A to E. An empty reply counts as A: the tool looks for it inside `(A)`."""
    text = reply.strip()
    for opening in ("The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
                    "The correct option is", "Best answer:", "Best option:"):  # fmt: skip
        text = text.replace(opening, "")
    if match := re.search("[ABCDE]", text):
        return match[0] == choice_letter(task)
    if len(text.split()) > 10:
        return False
    bracketed_letter = next((letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"), "")
    return bracketed_letter == choice_letter(task)


def _blink(task: Task, reply: str) -> bool:
    text, letter_class = reply.strip(), f"[{letters(task)}]"
    first_line = text.split("\n", 1)[0].strip()
    if len(first_line) <= 4 and (match := re.match(rf"^\(?({letter_class})\)?[\.\s:,)]*$", first_line, re.IGNORECASE)):
        return match[1].upper() == choice_letter(task)
    stated_pattern = rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?({letter_class})\)?(?![A-Za-z])"
    for matches in (re.findall(stated_pattern, text, re.IGNORECASE), re.findall(rf"\(({letter_class})\)", text)):
        if matches:
            return matches[-1].upper() == choice_letter(task)
    match = re.match(rf"[\(\s]*({letter_class})", text, re.IGNORECASE)
    return match is not None and match[1].upper() == choice_letter(task)


def _mantis(task: Task, reply: str) -> bool:
    answer = reply
    for opening in ("final answer:", "the answer is", "answer:"):
        if opening in reply.lower():
            answer = reply[reply.lower().index(opening) + len(opening) :].strip()
            break
    expected = str(task.answer).strip("()\n ")
    if task.kind is not AnswerKind.CHOICE:
        return expected.lower() == answer.lower()
    if len(expected) != 1:
        expected = next((character for character in expected if character.isalpha()), expected)
    letter = (
        answer[8]
        if re.match("Answer: [A-Z]", answer)
        else next((character.upper() for character in answer if character.isalpha()), None)
    )
    if letter and ord(letter) - ord("A") < len(options(task)):
        return letter == expected.upper()
    index = ord(expected.upper()) - ord("A")
    return index < len(options(task)) and reply.strip() == options(task)[index].strip()


def _mirb(task: Task, reply: str) -> bool:
    if task.answer in list("ABCDE"):
        return _letter_and_stop(reply) == task.answer
    readings = _open_answers(reply)
    for expected in _plain(str(task.answer)):
        for reading in readings:
            if isinstance(reading, str) and isinstance(expected, str) and expected in reading:
                return True
            if not isinstance(reading, str) and reading == expected:
                return True
    return False


def _open_answers(reply: str) -> set[str | float]:
    """Possible answers in an open reply (MMMU's reading): the ends of its sentences, and its numbers."""
    text = reply.strip().strip(".").lower()
    sentences = re.split(r"\.\s(?=[A-Z])|\n", text)
    marks = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    ends = []
    for number, sentence in enumerate(sentences):
        if number == len(sentences) - 1:
            marks.append("=")
        tails = [sentence.split(mark)[-1].strip() for mark in marks if mark in sentence]
        tail = _shortest(tails)
        if tail and tail not in list(":,.!?;'"):
            ends.append(tail)
    ends = ends or [text]
    numbers = [number for end in ends for pattern in _NUMBERS for number in re.findall(pattern, end)]
    return {value for part in [*ends, *numbers] for value in _plain(part)}


def _shortest(tails: list[str]) -> str:
    """The shortest tail; an empty one is forgotten as soon as another follows."""
    shortest = ""
    for tail in tails:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest


_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def _plain(text: str) -> list[str | float]:
    """A number rounded to two places, or the text in lower case; a single letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _first_word_letter(task: Task, reply: str) -> bool:
    """`B` of `B. …`, else the first of A to E that stands alone once punctuation is gone (MVBench, NLVR2)."""
    if match := re.match(r"([A-E])\.\s*.+$", reply.strip(), re.IGNORECASE):
        return match[1].upper() == choice_letter(task)
    text = reply.replace("\n", " ").replace("\t", " ").strip()
    has_number = re.search(r"\d,\d", text) is not None
    plain_text = text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain_text = plain_text.replace(mark, "" if beside_space or has_number else " ")
    plain_text = re.sub(r"\.(?!\d)", "", plain_text, count=32).strip("'").strip('"').strip(")").strip("(").strip()
    match = re.search(r"\b([A-E])\b", plain_text, re.IGNORECASE)
    return match is not None and match[1].upper() == choice_letter(task)


PUBLISHED: Mapping[str, Mapping[str, Rule]] = {
    "vstar": {"vlmevalkit": vlmevalkit, "lmms-eval": _vstar},
    "hr_bench_4k": {"vlmevalkit": vlmevalkit, "lmms-eval": _hr_bench},
    "hr_bench_8k": {"vlmevalkit": vlmevalkit, "lmms-eval": _hr_bench},
    "mme_realworld": {"lmms-eval": _mme_realworld},
    "mme_realworld_lite": {"lmms-eval": _mme_realworld},
    "muirbench": {"vlmevalkit": vlmevalkit, "lmms-eval": _muirbench},
    "blink": {"vlmevalkit": vlmevalkit, "lmms-eval": _blink},
    "mmiu": {"vlmevalkit": vlmevalkit},
    "mantis": {"lmms-eval": _mantis},
    "mirb": {"lmms-eval": _mirb},
    "nlvr2": {"lmms-eval": _first_word_letter},
    "mvbench": {"lmms-eval": _first_word_letter},
    "mimic": {"mimic": mimic.released, "mimic-corrected": mimic.corrected},
}
"""The published rules by benchmark."""
