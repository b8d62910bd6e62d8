"""A finished rollout: its turns, its crops and its end. Rewards read it; `fovea.runs.records` stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fovea.boxes import Box, Framing, Size
from fovea.tasks import Task


class StopReason(StrEnum):
    """Every way in which an episode can end."""

    ANSWERED = "answered"
    """The model wrote an answer."""
    NO_ACTION = "no_action"
    """A turn held neither a tool call nor an answer."""
    TURN_LIMIT = "turn_limit"
    """The last allowed turn was still a tool call."""
    TURN_TOKENS = "turn_tokens"
    """A turn was cut off at its token limit."""
    EPISODE_TOKENS = "episode_tokens"
    """The next observation, or the next turn, would not fit the episode's token budget."""


class FaultKind(StrEnum):
    """Mistakes of a model in a tool call."""

    BAD_JSON = "bad_json"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_ARGUMENTS = "bad_arguments"
    BAD_BOX = "bad_box"
    EMPTY_BOX = "empty_box"
    OUTSIDE_BOX = "outside_box"
    TINY_BOX = "tiny_box"
    BAD_IMAGE_INDEX = "bad_image_index"
    TOO_MANY_CALLS = "too_many_calls"


class ModelFault(ValueError):
    """Raised by a tool when the *model* erred: the message goes back to it as text. Any other exception is our bug."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = FaultKind(kind)


@dataclass(frozen=True)
class Call:
    """A well-formed tool call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A final answer."""

    text: str


@dataclass(frozen=True)
class Fault:
    """A tool call that could not be carried out; `message` went back to the model."""

    kind: FaultKind
    message: str


@dataclass(frozen=True)
class NoAction:
    """Text without a tool call or an answer."""


Action = Call | Answer | Fault | NoAction


@dataclass(frozen=True)
class Crop:
    """A region zoomed into: image `img_idx` of the episode shows `region` (UNIT) of the task's image `root`."""

    img_idx: int
    root: int
    region: Box
    input_size: Size


@dataclass(frozen=True)
class Focus:
    """Images of the task that the model had brought back whole, and for which sub-question.

    `answered` is what it wrote in the same call about the sub-question before.
    """

    images: tuple[int, ...]
    question: str = ""
    answered: str = ""


@dataclass(frozen=True)
class Observation:
    """The environment's answer: text, the crops that came with it, and the images that were brought back whole."""

    text: str
    crops: tuple[Crop, ...] = ()
    foci: tuple[Focus, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One assistant text, the action in it, and the observation that came back (None after the last).

    `well_formed` says whether the text kept the format to the letter. A turn with several tool calls has those behind
    the first in `more_actions`; its observation is that of all of them, in order.
    """

    text: str
    action: Action
    observation: Observation | None
    num_tokens: int = 0
    well_formed: bool = True
    more_actions: tuple[Action, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        return (self.action, *self.more_actions)

    @property
    def calls_a_tool(self) -> bool:
        """True if the model called a tool in this turn, or tried to."""
        return any(isinstance(action, (Call, Fault)) for action in self.actions)


@dataclass(frozen=True)
class TokenRecord:
    """The tokens that were really sampled, for the loss: no text is ever tokenised again.

    `loss_mask` has one entry per completion token: 1 written by the policy, 0 an observation. `images` are all the
    images of the sequence in order, at the size in which the model received them.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    images: tuple[Any, ...]
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Episode:
    """A finished rollout of `task`."""

    task: Task
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    tokens: TokenRecord | None = field(default=None, repr=False, compare=False)
    messages: tuple[dict, ...] = field(default=(), repr=False, compare=False)
    framing: Framing | None = field(default=None, repr=False, compare=False)
    """In which frame the model writes boxes, with the views of the task's images."""
    environment_reward: float | None = None
    """The value of the environment's own `get_reward`, if it has one."""
    num_image_tokens: int | None = None
    """Visual tokens of all images that the model saw; None where they are not known."""

    @property
    def record(self) -> TokenRecord:
        """The tokens of an episode that a model played.

        Raises:
            ValueError: for an episode played without a renderer.
        """
        if self.tokens is None or not self.tokens.prompt_ids:
            raise ValueError(f"the episode of task {self.task.id} has no tokens: play it with a renderer")
        return self.tokens

    @property
    def answer(self) -> str | None:
        """The final answer, or None if there is none."""
        last = self.turns[-1].action if self.turns else None
        return last.text if isinstance(last, Answer) else None

    @property
    def crops(self) -> tuple[Crop, ...]:
        return tuple(crop for turn in self.turns if turn.observation for crop in turn.observation.crops)

    @property
    def foci(self) -> tuple[Focus, ...]:
        return tuple(focus for turn in self.turns if turn.observation for focus in turn.observation.foci)

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(action for turn in self.turns for action in turn.actions if isinstance(action, Fault))

    @property
    def num_zooms(self) -> int:
        return len(self.crops)

    @property
    def num_tokens(self) -> int:
        """Tokens the policy wrote."""
        return sum(turn.num_tokens for turn in self.turns)
