"""The parts of the visual agent: what each is asked, and what it may answer.

A role is an object with the methods of `Role`, as far as it plays them. Whatever a role answers is checked here before
it is used, and never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from PIL import Image

from fovea.answers.telling import tells
from fovea.boxes import UNIT_VIEW, WHOLE, Box, Frame, View
from fovea.tasks import Task

Value = TypeVar("Value")
NAMES = ("locate", "look", "adjust", "verify", "summarise")
MAX_TOKENS = {"locate": 128, "look": 256, "adjust": 128, "verify": 128, "summarise": 128}
"""Tokens that a chat model may write in each role, its thoughts included; in summarise for each text."""
MAX_ANSWER = 2000
"""Characters of an answer or a thought; a longer one is nonsense."""


class RoleError(ValueError):
    """An answer of a role that cannot be used, and why. The role is asked again a bounded number of times."""


class CutReply(RoleError):
    """An answer that its model did not end; the message begins with what to do, and a colon, by which it is counted."""


@dataclass(frozen=True)
class Sight:
    """An image as the model sees it, and the part (UNIT) of the task's image `root` that it shows."""

    task: Task
    image: Image.Image
    root: int
    region: Box

    @property
    def is_whole(self) -> bool:
        return self.region == WHOLE


@dataclass(frozen=True)
class Note:
    """A question about a sight, and its answer."""

    sight: Sight
    question: str
    answer: str


@dataclass(frozen=True)
class Judgement:
    """The verdict on an answer, with advice that does not tell the right one."""

    is_right: bool
    advice: str = ""


@dataclass
class Usage:
    """Requests, written tokens and tokens of their prompts, by role."""

    requests: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    num_asked: int = 0
    """Questions in all, those whose answers were remembered included."""

    def add(self, role: str, num_tokens: int = 0, num_prompt_tokens: int = 0, *, is_cached: bool = False) -> None:
        """Counts an answer; one that was remembered costs nothing."""
        self.num_asked += 1
        if is_cached:
            return
        counts = ((self.requests, 1), (self.tokens, num_tokens), (self.prompt_tokens, num_prompt_tokens))
        for counter, number in counts:
            counter[role] = counter.get(role, 0) + number


COSTS_HEAD = "\n| role | requests | prompt tokens | written tokens | tokens a trace |\n|---|---|---|---|---|"


def cost_row(role: str, usage: Usage, num_traces: int) -> str:
    """The costs of a role as a table row, below `COSTS_HEAD`."""
    counts = usage.requests, usage.prompt_tokens, usage.tokens
    requests, prompts, written = (count.get(role, 0) for count in counts)
    return f"| {role} | {requests} | {prompts} | {written} | {(prompts + written) / max(1, num_traces):.0f} |"


def asked(ask: Callable[[], Value], max_asks: int) -> Value:
    """The first answer of a role that can be used, of at most so many.

    Raises:
        RoleError: if none can be used.
    """
    for left in reversed(range(max_asks)):
        try:
            return ask()
        except RoleError:
            if not left:
                raise
    raise RoleError("it was never asked")


class Role(Protocol):
    """All five roles; a player of some of them has those methods alone. `usage` counts what it costs."""

    def locate(self, sight: Sight, target: str, usage: Usage) -> Any:
        """A box (UNIT of the sight's image) around the target, or None if it is not there."""

    def look(self, sight: Sight, question: str, notes: Sequence[Note], usage: Usage) -> Any:
        """The answer to a question by what is seen; `notes` are earlier looks at other parts."""

    def adjust(self, sight: Sight, box: Box, advice: str, usage: Usage) -> Any:
        """Another box (UNIT of the sight's image) in place of one that did not help."""

    def verify(self, task: Task, answer: str, usage: Usage) -> Any:
        """A `Judgement` of an answer; it alone knows the reference."""

    def summarise(self, task: Task, notes: Sequence[Note], answer: str, usage: Usage) -> Any:
        """The thoughts of a trace: one before each zoom of `notes`, and one before the answer."""


def box_of(numbers: Any, frame: Frame, view: View) -> Box:
    """A box in UNIT, of four numbers in a frame of a view.

    Raises:
        RoleError: for anything but four finite numbers.
    """
    try:
        return Box.of(numbers, frame).to(Frame.UNIT, view)
    except (TypeError, ValueError) as error:
        raise RoleError(f"{numbers!r} is no box of four finite numbers") from error


def checked_box(value: Any) -> Box | None:
    """The box of a role, clipped to its image.

    Raises:
        RoleError: for anything but a box in UNIT that has some extent.
    """
    if value is None:
        return None
    if not isinstance(value, Box) or value.frame is not Frame.UNIT:
        raise RoleError(f"{value!r} is no box in UNIT")
    if value.is_empty or (clipped := value.clipped(UNIT_VIEW)).is_empty:
        raise RoleError(f"the box {[round(c, 3) for c in value.coordinates]} holds nothing of the image")
    return clipped


def checked_text(value: Any) -> str:
    """The text of a role, without surrounding space.

    Raises:
        RoleError: for an empty or endless one, or one with tags of the protocol.
    """
    if not isinstance(value, str) or not value.strip():
        raise RoleError(f"{value!r} is no text")
    if len(value) > MAX_ANSWER:
        raise RoleError(f"it wrote {len(value)} characters, the bound is {MAX_ANSWER}")
    if re.search(r"</?(?:think|answer|tool_call|tool_response)>|<\|", value):
        raise RoleError(f"{value[:80]!r} holds tags of the protocol")
    return value.strip()


def checked_judgement(value: Any, task: Task) -> Judgement:
    """The judgement of a role; advice that tells the answer, or none, gives way to `ADVICE`.

    Raises:
        RoleError: for anything else.
    """
    if not isinstance(value, Judgement):
        raise RoleError(f"{value!r} is no judgement")
    if value.is_right or (value.advice.strip() and not tells(value.advice, task)):
        return value
    return Judgement(False, ADVICE)


def checked_thoughts(value: Any, task: Task, notes: Sequence[Note]) -> list[str]:
    """The thoughts of a trace.

    Raises:
        RoleError: for another number than zooms and one, or an answer that is told before it was seen.
    """
    if not isinstance(value, (list, tuple)) or len(value) != len(notes) + 1:
        raise RoleError(f"it gave no list of {len(notes) + 1} thoughts")
    thoughts = [checked_text(thought) for thought in value]
    seen: list[str] = []
    for thought, note in zip(thoughts, [*notes, None], strict=True):
        if note is None:
            break
        if tells(thought, task) and not any(tells(text, task) for text in seen):
            raise RoleError("a thought tells the answer before it was seen")
        seen.append(note.answer)
    return thoughts


ADVICE = "It is not right. Look at a larger part around it, or elsewhere."
