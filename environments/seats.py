"""One running episode: what its policy is asked to continue, and what becomes of a reply."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from environments.content import content_of, misfits
from environments.prompts import TOOLS_PROMPT, VIEWS_PROMPT
from environments.protocol import is_well_formed, parse_actions
from environments.rendering import Renderer, images_of
from fovea.awaiting import awaited
from fovea.boxes import Framing
from fovea.episodes import (
    Action,
    Answer,
    Call,
    Crop,
    Episode,
    Fault,
    FaultKind,
    Focus,
    ModelFault,
    NoAction,
    Observation,
    StopReason,
    TokenRecord,
    Turn,
)
from fovea.images import ImageError
from fovea.plugins import taken
from fovea.tasks import Task


@dataclass(frozen=True)
class Limits:
    """Limits of an episode: assistant turns, tokens in a turn, tokens after the prompt."""

    max_turns: int = 4
    max_tokens_per_turn: int = 512
    max_completion_tokens: int = 4096


class TaskNotShown(ValueError):
    """A task that its environment refuses to show, such as one with more images than its budget holds."""


@dataclass
class Conversation:
    """The conversation that a policy continues: chat messages, and with a renderer their token ids and images."""

    task: Task
    messages: list[dict]
    token_ids: list[int] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    cache: Any = None
    """Whatever the policy wants to keep until the next turn."""
    tools: tuple[Callable, ...] = ()
    framing: Framing | None = None
    seed: int | None = None
    """Of its own sampling, whatever is played beside it; without one, tokens are drawn from what the process draws."""

    @property
    def turn_seed(self) -> int | None:
        """The seed of its next turn, below 2^31: servers take signed numbers."""
        if self.seed is None:
            return None
        num_turns = sum(message["role"] == "assistant" for message in self.messages)
        return int(np.random.SeedSequence([self.seed, num_turns]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Reply:
    """One assistant turn: its text, and from a model its token ids, the end token included if it was written.

    `num_written` says how many tokens there were where their ids are not known.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    is_truncated: bool = False
    logprobs: tuple[float, ...] | None = None
    num_written: int | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) if self.num_written is None else self.num_written


def tools_of(environment: Any) -> dict[str, Callable]:
    """The tools of an environment by TRL's rule: public functions of its class other than `reset` and `get_reward`.

    Static methods are tools; class methods, attributes and properties are not, and no property is evaluated.
    """
    names = [name for name, _ in inspect.getmembers(type(environment), predicate=inspect.isfunction)]
    return {
        name: getattr(environment, name)
        for name in names
        if not name.startswith("_") and name not in ("reset", "get_reward")
    }


def framing_of(environment: Any) -> Framing | None:
    """In which frame the model writes boxes of the images that an environment shows now; None if it does not say."""
    return getattr(environment, "framing", None)


def system_prompt_of(environment: Any) -> str:
    """Its own; for one that has none, to call its tools if it has some, and to answer in tags."""
    return getattr(environment, "system_prompt", TOOLS_PROMPT if tools_of(environment) else VIEWS_PROMPT)


def opening(environment: Any, task: Task) -> list[dict]:
    """The messages with which an episode begins: the system prompt, and the task as the environment shows it.

    Raises:
        ImageError: for a task with an image that cannot be used, by the task's id.
        TaskNotShown: for another task that the environment refuses to show.
        ValueError: for an environment that shows something else than images and texts.
    """
    name = f"{type(environment).__name__}.reset"
    kind: type[ValueError] = TaskNotShown
    try:
        content = awaited(environment.reset(**taken(environment.reset, task.row())))
        kind = ValueError  # what is wrong from here on is wrong with the environment
        if content is None or (isinstance(content, (str, list, tuple)) and not content):
            if task.images:
                raise ValueError(f"{name} returned {content!r}: return a list of the images and the question")
            content = task.prompt
        blocks = content_of(content, name)
    except ValueError as error:
        kind = ImageError if isinstance(error, ImageError) else kind
        raise kind(f"task {task.id} cannot be shown: {error}") from error
    return [{"role": "system", "content": system_prompt_of(environment)}, {"role": "user", "content": blocks}]


def try_openings(factory: Callable[[], Any], tasks: Sequence[Task]) -> None:
    """Shows the first task and the one with the most images, before anything is played.

    Raises:
        ValueError: as `opening`.
    """
    for task in {task.id: task for task in (tasks[0], max(tasks, key=lambda task: len(task.images)))}.values():
        opening(factory(), task)


def begin(environment: Any, task: Task, renderer: Renderer | None, seed: int | None = None) -> Conversation:
    """The conversation of an episode before the model's first turn; without token ids where there is no renderer."""
    messages, tools = opening(environment, task), tuple(tools_of(environment).values())
    images, framing = images_of(messages), framing_of(environment)
    ids = [] if renderer is None else renderer.prompt_ids(messages, tools)
    return Conversation(task, messages, ids, images=images, tools=tools, framing=framing, seed=seed)


class Seat:
    """One running episode."""

    def __init__(
        self, task: Task, environment: Any, renderer: Renderer | None, limits: Limits, seed: int | None = None
    ) -> None:
        self.task, self.environment, self.renderer, self.limits = task, environment, renderer, limits
        self.get_reward = getattr(environment, "get_reward", None)
        self.tools = tools_of(environment)
        self.conversation = begin(environment, task, renderer, seed)
        self.num_prompt_tokens = len(self.conversation.token_ids)
        self.is_of_several = len(self.conversation.images) > 1
        self.loss_mask: list[int] = []
        self.logprobs: list[float] = []
        self.turns: list[Turn] = []
        self.stop_reason: StopReason | None = None

    @property
    def tokens_left(self) -> int:
        """The number of tokens that the next turn may have."""
        return min(self.limits.max_tokens_per_turn, self.limits.max_completion_tokens - len(self.loss_mask))

    def take(self, reply: Reply) -> None:
        """Carries out one reply: the actions in it, and the observations that follow."""
        conversation = self.conversation
        conversation.messages.append({"role": "assistant", "content": reply.text})
        conversation.token_ids += reply.token_ids
        self.loss_mask += [1] * len(reply.token_ids)
        self.logprobs += reply.logprobs or ()
        actions = parse_actions(reply.text)
        answers: list[list[dict]] = []
        if reply.is_truncated:
            self.stop_reason = StopReason.TURN_TOKENS
        elif isinstance(actions[0], (Answer, NoAction)):
            self.stop_reason = StopReason.ANSWERED if isinstance(actions[0], Answer) else StopReason.NO_ACTION
        elif len(self.turns) + 1 >= self.limits.max_turns:
            self.stop_reason = StopReason.TURN_LIMIT
        else:
            done = [self._act(action) for action in actions if isinstance(action, (Call, Fault))]
            actions, answers = [action for action, _ in done], [blocks for _, blocks in done]
            conversation.framing = framing_of(self.environment)
            if not self._observe(answers):
                self.stop_reason, answers = StopReason.EPISODE_TOKENS, []
        if self.stop_reason is not None:
            conversation.cache = None
        observation = _observation([block for blocks in answers for block in blocks]) if answers else None
        first, *more = actions
        well_formed = is_well_formed(reply.text)
        self.turns.append(Turn(reply.text, first, observation, reply.num_tokens, well_formed, tuple(more)))

    def _act(self, action: Call | Fault) -> tuple[Action, list[dict]]:
        """The action as it turned out, and the content that answers it. Only a `ModelFault` is caught."""
        if isinstance(action, Call):
            try:
                return action, content_of(self._call(action), f"tool {action.name}")
            except ModelFault as fault:
                action = Fault(fault.kind, str(fault))
        return action, [{"type": "text", "text": action.message}]

    def _call(self, call: Call) -> Any:
        if call.name not in self.tools:
            raise ModelFault(FaultKind.UNKNOWN_TOOL, f"There is no such tool. Use one of: {', '.join(self.tools)}.")
        tool = self.tools[call.name]
        try:
            inspect.signature(tool).bind(**call.arguments)
        except TypeError:
            names = ", ".join(inspect.signature(tool).parameters)
            raise ModelFault(FaultKind.BAD_ARGUMENTS, f"{call.name} takes the arguments {names}.") from None
        try:
            return awaited(tool(**copy.deepcopy(call.arguments)))
        except ModelFault:
            raise
        except Exception:
            if wrong := misfits(tool, call.arguments):
                message = f"{call.name} takes arguments of another type: {', '.join(wrong)}."
                raise ModelFault(FaultKind.BAD_ARGUMENTS, message) from None
            raise

    def _observe(self, answers: list[list[dict]]) -> bool:
        """Appends what the calls were answered, unless its tokens and one more would not fit the episode's budget."""
        if self.renderer is not None:
            ids = self.renderer.observation_ids(*answers, among_several=self.is_of_several)
            if len(self.loss_mask) + len(ids) + 1 > self.limits.max_completion_tokens:
                return False
            self.conversation.token_ids += ids
            self.loss_mask += [0] * len(ids)
            self.logprobs += [0.0] * len(ids) if self.logprobs else []
        for blocks in answers:
            self.conversation.messages.append({"role": "tool", "name": "tool", "content": blocks})
            self.conversation.images += images_of(self.conversation.messages[-1:])
        return True

    def episode(self) -> Episode:
        assert self.stop_reason is not None
        ids, start = self.conversation.token_ids, self.num_prompt_tokens
        tokens = TokenRecord(
            prompt_ids=tuple(ids[:start]),
            completion_ids=tuple(ids[start:]),
            loss_mask=tuple(self.loss_mask),
            images=tuple(self.conversation.images),
            logprobs=tuple(self.logprobs) if self.logprobs else None,
        )
        messages = tuple(self.conversation.messages)
        own: Any = None if self.get_reward is None else awaited(self.get_reward())
        own = own.item() if hasattr(own, "item") else own  # of NumPy or PyTorch
        num_image_tokens = None if self.renderer is None else ids.count(self.renderer.image_token_id)
        return Episode(
            self.task,
            tuple(self.turns),
            self.stop_reason,
            tokens,
            messages,
            self.conversation.framing,
            own,
            num_image_tokens,
        )


def _observation(blocks: Iterable[dict]) -> Observation:
    blocks = list(blocks)
    text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    crops = tuple(block["crop"] for block in blocks if isinstance(block.get("crop"), Crop))
    foci = tuple(block["focus"] for block in blocks if isinstance(block.get("focus"), Focus))
    return Observation(text, crops, foci)
