"""Roles played by chat models: an OpenAI-compatible endpoint, or a model in this process.

Each role is a prompt and a strict reading of the reply. Boxes are asked for, and read, in the frame that the model's
family was taught; of a model behind an endpoint it is not known, so per-mille is asked for in words.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image

from environments.play import Sampling
from environments.policies.endpoint import messages_of
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Conversation
from fovea.answers import written
from fovea.answers.boxes import boxes_in
from fovea.boxes import Box, Frame, Framing, View
from fovea.endpoint import ChatEndpoint, is_whole
from fovea.images import fit
from fovea.models.loading import Model
from fovea.placeholders import IMAGE_LABEL
from fovea.tasks import Task
from synthesis.agent.roles import MAX_TOKENS, CutReply, Judgement, Note, RoleError, Sight, Usage, box_of

Messages = list[dict[str, Any]]
"""Chat messages whose content is a list of blocks, images inside them."""


@dataclass(frozen=True)
class Told:
    """A reply of a chat model and what it cost; `cut_by` says what ended it, if the model did not."""

    text: str
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    is_cached: bool = False
    cut_by: str = ""


class Chat(Protocol):
    """A chat model, and the frame in which it writes boxes."""

    frame: Frame

    def ask(self, messages: Messages, *, max_tokens: int, draw: int) -> Told:
        """The reply; the same question may be answered otherwise at another `draw`."""

    def shown(self, image: Image.Image) -> Image.Image:
        """The image at the size at which the model receives it."""


@dataclass
class EndpointChat:
    """A model behind the OpenAI protocol."""

    endpoint: ChatEndpoint
    temperature: float
    frame: Frame = Frame.PER_MILLE

    def ask(self, messages: Messages, *, max_tokens: int, draw: int) -> Told:
        asked = messages_of(Conversation(NOBODY, messages))
        answer = self.endpoint.chat(asked, max_tokens=max_tokens, temperature=self.temperature)
        return Told(
            answer["text"],
            answer["num_tokens"] or 0,
            answer["num_prompt_tokens"] or 0,
            answer["is_cached"],
            "" if is_whole(answer) else str(answer["finish_reason"]).lower(),
        )

    def shown(self, image: Image.Image) -> Image.Image:
        return image


class LocalChat:
    """A model in this process. One request runs at a time."""

    def __init__(self, model: Model, temperature: float) -> None:
        self.model, self.frame = model, model.frame
        self.renderer = Renderer(model.processor, end_ids=model.end_ids)
        self.policy = TransformersPolicy(model.network, self.renderer, Sampling(temperature))
        self._lock = Lock()

    def ask(self, messages: Messages, *, max_tokens: int, draw: int) -> Told:
        system = self.model.default_system
        whole = [{"role": "system", "content": system}, *messages] if system else messages
        images = [block["image"] for message in messages for block in message["content"] if block["type"] == "image"]
        with self._lock, torch.random.fork_rng():
            ids = self.renderer.prompt_ids(whole, ())
            torch.manual_seed(zlib.crc32(f"{draw} {ids}".encode()))  # the same, whatever else is asked meanwhile
            [reply] = self.policy.reply([Conversation(NOBODY, whole, ids, images)], max_tokens=[max_tokens])
        return Told(reply.text, reply.num_tokens, len(ids), cut_by="length" if reply.is_truncated else "")

    def shown(self, image: Image.Image) -> Image.Image:
        return fit(image, self.model.limits)


NOBODY = Task("", (), "", None)
"""The task of a question that is none."""


@dataclass
class Asked:
    """A chat model that is asked in the words of roles.

    `prompts` replaces those of single roles, and `max_tokens` the tokens that single roles may write.
    """

    chat: Chat
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_tokens: Mapping[str, int] = field(default_factory=dict)
    words: ClassVar[Mapping[str, str]] = {}
    most_tokens: ClassVar[Mapping[str, int]] = {}

    def _prompt(self, role: str, **values: Any) -> str:
        return self.prompts.get(role, self.words[role]).format(**values)

    def _most(self, role: str) -> int:
        return self.max_tokens.get(role, self.most_tokens[role])

    def _ask(self, role: str, messages: Messages, usage: Usage, *, max_tokens: int | None = None) -> str:
        most = max_tokens or self._most(role)
        told = self.chat.ask(messages, max_tokens=most, draw=usage.num_asked)
        usage.add(role, told.num_tokens, told.num_prompt_tokens, is_cached=told.is_cached)
        if told.cut_by in BY_LENGTH:
            cure = f"raise --max_tokens {role}=… with --retry_failed true"
            raise CutReply(f"a reply was cut off, {cure}: {told.cut_by}, at most {most} tokens")
        if told.cut_by:
            raise CutReply(f"a reply was stopped by the server: {told.cut_by}")
        return told.text.rpartition("</think>")[2].strip()


BY_LENGTH = ("length", "max_tokens", "model_length", "incomplete")
"""Servers' names for the end of a reply that was too long."""
PROMPTS = {
    "locate": 'Find what answers this: {target}\nAnswer with its box as JSON, {{"bbox_2d": [x1, y1, x2, y2]}}, or with '
    "none if it is not in the image. {form}",
    "look": "{question}\nAnswer in a few words.",
    "adjust": "The part {box} of the image did not help to answer. {advice}\nAnswer with the box of a better part as "
    'JSON, {{"bbox_2d": [x1, y1, x2, y2]}}. {form}',
    "verify": "Question: {question}\nReference: {reference}\nTo be judged: {answer}\nWrite the one word right if they "
    "mean the same. Else write wrong, and one sentence of advice on where to look, without the reference.",
    "summarise": "Someone answered a question about an image by zooming into parts of it.\nQuestion: {question}\n"
    "Steps: {steps}\nAnswer: {answer}\nWrite what they thought, first person, one or two sentences before each zoom "
    "and before the answer, without telling what was not seen yet. Answer with a JSON list of {count} texts.",
}
"""The words of each role. A text is compared as it stands, so a look is answered in a few words."""


class ChatRole(Asked):
    """All five roles by one chat model."""

    words, most_tokens = PROMPTS, MAX_TOKENS

    def locate(self, sight: Sight, target: str, usage: Usage) -> Box | None:
        image = self.chat.shown(sight.image)
        prompt = self._prompt("locate", target=target, form=self._framing(image).describe(0))
        messages = [user_message(prompt, *self._labelled(sight))]
        return self._box(self._ask("locate", messages, usage), image)

    def look(self, sight: Sight, question: str, notes: Sequence[Note], usage: Usage) -> str:
        messages: Messages = []
        shown: list[Image.Image | str] = []  # with the next question
        for note in notes:
            shown += self._labelled(note.sight)
            if note.answer:
                messages += [user_message(note.question, *shown), _assistant(note.answer)]
                shown = []
        if not notes or notes[-1].sight is not sight:
            shown += self._labelled(sight)
        messages.append(user_message(self._prompt("look", question=question), *shown))
        return self._ask("look", messages, usage)

    def adjust(self, sight: Sight, box: Box, advice: str, usage: Usage) -> Box | None:
        image = self.chat.shown(sight.image)
        framing = self._framing(image)
        numbers = json.dumps(framing.write(box))
        prompt = self._prompt("adjust", box=numbers, advice=advice, form=framing.describe(0))
        messages = [user_message(prompt, *self._labelled(sight))]
        return self._box(self._ask("adjust", messages, usage), image)

    def verify(self, task: Task, answer: str, usage: Usage) -> Judgement:
        prompt = self._prompt("verify", question=task.prompt, reference=written(task), answer=json.dumps(answer))
        text = self._ask("verify", [user_message(prompt)], usage)
        match = re.match(r"\W*(right|wrong)\b[\s:.,*-]*(.*)", text, re.IGNORECASE | re.DOTALL)
        if match is None:
            raise RoleError(f"{text[:80]!r} begins with neither 'right' nor 'wrong'")
        is_right = match[1].lower() == "right"
        if is_right and re.search(r"\bwrong\b|\bnot right\b|\bincorrect\b", match[2], re.IGNORECASE):
            raise RoleError(f"{text[:80]!r} says both right and wrong")
        return Judgement(is_right, match[2].strip())

    def summarise(self, task: Task, notes: Sequence[Note], answer: str, usage: Usage) -> list[str]:
        steps = [{"zoomed to": note.question, "saw": note.answer} for note in notes]
        count = len(notes) + 1
        prompt = self._prompt(
            "summarise", question=task.prompt, steps=json.dumps(steps), answer=json.dumps(answer), count=count
        )
        text = self._ask("summarise", [user_message(prompt)], usage, max_tokens=count * self._most("summarise"))
        return json_in(text, "[]")

    def _labelled(self, sight: Sight) -> list[Image.Image | str]:
        """The image, and where the task has several its number before it, as the environment numbers them."""
        image = self.chat.shown(sight.image)
        if len(sight.task.images) < 2:
            return [image]
        label = IMAGE_LABEL.format(sight.root)
        return [label if sight.is_whole else f"A part of {label[0].lower()}{label[1:]}", image]

    def _framing(self, image: Image.Image) -> Framing:
        return Framing(self.chat.frame, (View(image.size, image.size),))

    def _box(self, text: str, image: Image.Image) -> Box | None:
        boxes = boxes_in(text)
        if _IS_NONE.match(text) or (not boxes and _IS_NOWHERE.search(text)):
            return None
        if not boxes:
            raise RoleError(f"{text[:80]!r} holds no box")
        numbers, _ = boxes[0]
        if self.chat.frame is Frame.PER_MILLE and (max(numbers) > 1000 or max(numbers) <= 1):
            raise RoleError(f"the box {list(numbers)} is not in per-mille: its numbers go from 0 to 1000")
        return box_of(numbers, self.chat.frame, View(image.size, image.size))


_IS_NONE = re.compile(r"\W*(?:json\b\W*)?(?:none|null)\b", re.IGNORECASE)
"""Begins with a word for no box, perhaps in a code fence."""
_IS_NOWHERE = re.compile(
    r"^\W*?(?:json\b)?\s*(?:\[\s*\]|\{\s*\})[\s`]*$|"
    r"\"(?:bbox_2d|bbox|box|box_2d|coordinates)\"\s*:\s*"
    r"(?:null|\[\s*(?:null[\s,]*)*\]|\"\s*(?:none|null|n/a|not [\w ]+)?\s*\")|"
    r"(?:\bnot|n['’]t) (?:\w+ ){0,2}?(?:visible|present|in (?:the|this) (?:image|picture|photo|view))\b",
    re.IGNORECASE,
)
"""Has an empty box, or says in words that there is none."""


def user_message(text: str, *shown: Image.Image | str) -> dict[str, Any]:
    """A message that shows images, perhaps with labels before them, and then says a text."""
    blocks = [
        {"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "image": one} for one in shown
    ]
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def json_in(text: str, ends: str) -> Any:
    """The JSON in a reply between its first and last of two characters, "[]" or "{}".

    Raises:
        RoleError: for a reply without any.
    """
    try:
        return json.loads(text[text.index(ends[0]) : text.rindex(ends[1]) + 1])
    except (ValueError, RecursionError) as error:
        raise RoleError(f"{text[:80]!r} holds no JSON in {ends}") from error
