"""Problems of a trace's texts: tags, answers, and answers told before the model has seen them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from environments.protocol import behind_thoughts
from environments.traces import Trace, first_turn, text_of
from fovea.answers.telling import tells
from fovea.tasks import Task

TAGS = ("think", "tool_call", "answer")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CANDIDATES = {
    "number": (re.compile(r"-?\d+(?:\.\d+)?"), re.compile(r"-?\d+(?:\.\d+)?")),
    "letter": (re.compile(r"\(?([A-H])[.)]?"), re.compile(r"(?<![\w'])\(?([B-H]|A(?=[).]))\b")),
    "verdict": (re.compile(r"(?i)(yes|no)\.?"), re.compile(r"(?i)\b(yes|no)\b")),
}
"""By kind of answer: a pattern of the answer, and a pattern that finds such answers in a thought."""


def tag_problems(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tags of the assistant's turns that are not closed, or closed twice."""
    for number, text in enumerate(texts):
        for tag in TAGS:
            opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
            if opened != closed:
                yield "unclosed tag", f"turn {number} opens <{tag}> {opened} times and closes it {closed} times"


def answer_problems(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Answers that are missing, doubled, or followed by more."""
    bodies = [behind_thoughts(text)[1] for text in texts]
    counts = [body.count("<answer>") for body in bodies]
    if sum(counts) == 0:
        yield "no answer", "no turn holds an answer"
    elif any("<tool_call>" in body for body, count in zip(bodies[:-1], counts, strict=False) if count):
        yield "call after answer", "a turn holds a call and an answer"
    elif sum(counts) > 1:
        yield "two answers", f"the turns hold {sum(counts)} answers"
    elif counts[-1] == 0 or "<tool_call>" in bodies[-1].partition("<answer>")[2]:
        yield "call after answer", "more follows the answer"


def leaks(trace: Trace) -> Iterator[tuple[str, str]]:
    """An answer that is written before any crop was seen, in a trace with crops."""
    texts = [text_of(message) for message in trace.messages if message["role"] == "assistant"]
    match = _ANSWER.search(behind_thoughts(texts[-1])[1])
    if match is None or len(texts) < 2:
        return
    asked = " ".join(text_of(message) for message in trace.messages[: first_turn(trace)])
    task = Task("", (), asked, match[1].strip())
    if tells(texts[0].partition("<tool_call>")[0], task):
        yield "leaked answer", f"the first turn tells {task.answer!r} before anything was zoomed into"


def unsupported(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """An answer beside which the last thought holds others of its kind, but not the answer.

    A sum of two readings is such an answer too, so this is something to look at and not an error.
    """
    thoughts, body = behind_thoughts(texts[-1])
    match = _ANSWER.search(body)
    if match is None:
        return
    answer, thought = match[1].strip(), thoughts + body[: match.start()]
    for whole, others in _CANDIDATES.values():
        if told := whole.fullmatch(answer):
            wanted = told[told.lastindex or 0].casefold()
            found = [one[one.lastindex or 0].casefold() for one in others.finditer(thought)]
            if found and wanted not in found:
                yield "answer not in the last thought", f"it tells {', '.join(found[:5])}, and the answer is {answer}"
            return
