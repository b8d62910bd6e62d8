"""The words of a trace in the protocol's form, and a count of what was changed for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from environments.protocol import behind_thoughts, is_well_formed
from environments.traces import TraceError
from fovea.placeholders import MARK

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_INSTRUCTIONS = re.compile(
    r"\s*(?:Think (?:first, call \*\*\w+\*\* if needed|in the mind first, and then decide)[^\n]*Format strictly as:"
    r"[^\n]*|Guidelines: Understand the given visual information[^\n]*)\s*\Z"
)
"""Texts that Chain-of-Focus, DeepEyes and Pixel-Reasoner write behind a question to explain their own protocols."""
_PREFIX = re.compile(r"\A(?:\s*Question:)+\s*")


@dataclass
class Changes:
    """Changes made while reading: counts, and the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def note(self, what: str, before: str, after: str) -> None:
        """Counts a change, if it is one."""
        if before != after:
            self.counts[what] += 1
            self.examples.setdefault(what, (before, after))

    def add(self, other: Changes) -> None:
        """Takes over what another one counted."""
        self.counts += other.counts
        self.examples = {**other.examples, **self.examples}


def question_of(text: str, strip: re.Pattern | None, changes: Changes) -> str:
    """The question without the instructions of another protocol."""
    bare = _PREFIX.sub("", _INSTRUCTIONS.sub("", text)).strip()
    bare = strip.sub("", bare).strip() if strip else bare
    changes.note("instructions taken out of questions", text.replace(MARK, "").strip(), bare.replace(MARK, ""))
    return bare


def in_protocol(text: str) -> str:
    """A turn in the protocol's form: all that is neither a call nor the answer becomes the thoughts.

    >>> in_protocol("It is red. <answer>red</answer>")
    '<think>It is red.</think>\\n<answer>red</answer>'

    Raises:
        TraceError: for a turn with two answers, or with an answer beside calls.
    """
    if is_well_formed(text):
        return text
    thoughts, body = behind_thoughts(text)
    calls = re.findall(r"<tool_call>.*?</tool_call>", body, re.DOTALL)
    answers = re.findall(r"<answer>.*?</answer>", body, re.DOTALL)
    if len(answers) > 1:
        raise TraceError("a turn holds two answers")
    if calls and answers:
        raise TraceError("a turn holds a call and an answer")
    actions = calls or answers
    for action in actions:
        body = body.replace(action, "", 1)
    parts = [re.sub(r"</?think>", "", part).strip() for part in (thoughts, body)]
    return f"<think>{' '.join(part for part in parts if part)}</think>\n" + "\n".join(actions)


def calls_in(text: str) -> list[str]:
    """The tool calls of a turn, without their tags; those that its thoughts mention are none."""
    return _CALL.findall(behind_thoughts(text)[1])


def with_calls(text: str, rewritten: Callable[[str], str]) -> str:
    """A turn with the text inside each of its `<tool_call>` tags rewritten."""
    thoughts, body = behind_thoughts(text)
    return thoughts + _CALL.sub(lambda match: f"<tool_call>\n{rewritten(match[1].strip())}\n</tool_call>", body)
