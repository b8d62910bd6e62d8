"""The visual agent on one task: a bounded loop over the real environment, until an answer is verified.

Facts of Chain-of-Focus's builder (arXiv 2505.15436, section 3.2; its code was not released): locate, look, adjust, a
verifier that knows the reference and advises, and a trace rewritten from the successful steps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from environments.seats import opening, tools_of
from fovea.boxes import WHOLE, Box, Frame, Framing, View
from fovea.episodes import ModelFault
from fovea.images import pixels_under
from fovea.tasks import AnswerKind, Task
from synthesis.agent.questions import looked_for, question_of
from synthesis.agent.roles import (
    CutReply,
    Judgement,
    Note,
    RoleError,
    Sight,
    Usage,
    asked,
    checked_box,
    checked_judgement,
    checked_text,
    checked_thoughts,
)

ZOOM = "image_zoom_in_tool"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """Who plays which role."""

    locate: Any
    look: Any
    adjust: Any
    verify: Any
    summarise: Any


@dataclass(frozen=True)
class Bounds:
    """Bounds on the agent's attempts."""

    num_sights: int = 3
    """Times that the first view is asked; the task needs no zoom only if it is right each time."""
    max_attempts: int = 4
    """Chains of zooms."""
    max_asks: int = 3
    """Times that a role is asked again after an answer that cannot be used."""


class GivenUp(Exception):
    """A task that the agent leaves, with its reason."""


@dataclass(frozen=True)
class Zoom:
    """A zoom that helped: the call's arguments, and what was seen."""

    arguments: dict[str, Any]
    note: Note


@dataclass
class Solution:
    """The zooms that led to a verified answer, and the thoughts of its trace."""

    zooms: list[Zoom]
    thoughts: list[str]


@dataclass
class Agent:
    """Works on one task at a time; several may run side by side."""

    team: Team
    bounds: Bounds
    make_environment: Callable[[], Any]
    usage: Usage = field(default_factory=Usage)

    def solve(self, task: Task) -> Solution:
        """The solution of a task.

        Raises:
            GivenUp: with the reason, when the bounds are reached.
        """
        views = self._views(task, self.make_environment())
        answer = self._at_sight(task, views)
        zooms: list[Zoom] = []
        if answer is None:
            answer, zooms = self._by_zooming(task, views)
        notes = [zoom.note for zoom in zooms]

        def summarised() -> list[str]:
            return checked_thoughts(self.team.summarise.summarise(task, notes, answer, self.usage), task, notes)

        return Solution(zooms, self._ask("summarise", summarised))

    def _views(self, task: Task, environment: Any) -> list[Sight]:
        """The first views of a task."""
        if task.kind is AnswerKind.BOX:
            raise GivenUp("it asks for a box: fovea traces knows where that is")
        content = opening(environment, task)[1]["content"]
        images = [block["image"] for block in content if not isinstance(block, str) and block["type"] == "image"]
        if not images:
            raise GivenUp("no image")
        return [Sight(task, image, root, WHOLE) for root, image in enumerate(images)]

    def _at_sight(self, task: Task, views: Sequence[Sight]) -> str | None:
        """The answer that the first views give each time that they are asked; None if it is not always right."""
        answer = None
        for _ in range(self.bounds.num_sights):
            answer = self._look(views[-1], question_of(task), [Note(view, "", "") for view in views[:-1]])
            if not self._judge(task, answer).is_right:
                return None
        return answer

    def _by_zooming(self, task: Task, views: Sequence[Sight]) -> tuple[str, list[Zoom]]:
        """An answer that was right, and the zooms before it; a chain of zooms is adjusted by the advice on the last."""
        advice = ""
        places: dict[int, tuple[int, Box]] = {}
        for _ in range(self.bounds.max_attempts):
            try:
                zooms = self._chain(task, views, places, advice)
            except ModelFault as fault:
                advice = str(fault)
                continue
            answer = zooms[-1].note.answer
            if zooms[-1].note.question != question_of(task):
                answer = self._look(zooms[-1].note.sight, question_of(task), [zoom.note for zoom in zooms])
            judgement = self._judge(task, answer)
            if judgement.is_right:
                return answer, zooms
            advice = judgement.advice
        raise GivenUp("never right" if advice else "never located")

    def _chain(self, task: Task, views: Sequence[Sight], places: dict[int, tuple[int, Box]], advice: str) -> list[Zoom]:
        """Zooms into each thing that the task asks about.

        `places` are image and box of each in the last attempt, and become this one's.

        Raises:
            ModelFault: for a zoom that the environment refuses.
        """
        environment = self.make_environment()
        opening(environment, task)
        seen = list(views)
        zooms: list[Zoom] = []
        for number, (target, question) in enumerate(looked_for(task)):
            is_inside = bool(task.metadata.get("nested")) and number > 0
            first = len(seen) - 1 if is_inside else 0
            places[number] = self._place(seen[first:] if is_inside else views, target, places.get(number), advice)
            index, box = first + places[number][0], places[number][1]
            sight = seen[index]
            arguments = {"bbox_2d": _numbers(environment, sight, index, box, len(views)), "label": target,
                         "img_idx": index}  # fmt: skip
            blocks = tools_of(environment)[ZOOM](**arguments)
            shown = next(block for block in blocks if block["type"] == "image")
            crop = Sight(task, shown["image"], shown["crop"].root, shown["crop"].region)
            seen.append(crop)
            answer = self._look(crop, question, [zoom.note for zoom in zooms]) if question else ""
            zooms.append(Zoom(arguments, Note(crop, question, answer)))
        return zooms

    def _place(
        self, sights: Sequence[Sight], target: str, before: tuple[int, Box] | None, advice: str
    ) -> tuple[int, Box]:
        """The image that holds the target, and its box; with advice, a better box in the image of `before`."""
        if before is not None and advice:
            index, old = before
            adjusted = self._ask(
                "adjust", lambda: checked_box(self.team.adjust.adjust(sights[index], old, advice, self.usage))
            )
            if adjusted is not None:
                return index, adjusted
        for index, sight in enumerate(sights):

            def located(sight: Sight = sight) -> Box | None:
                return checked_box(self.team.locate.locate(sight, target, self.usage))

            if (box := self._ask("locate", located)) is not None:
                return index, box
        raise GivenUp("never located")

    def _look(self, sight: Sight, question: str, notes: Sequence[Note]) -> str:
        return self._ask("look", lambda: checked_text(self.team.look.look(sight, question, notes, self.usage)))

    def _judge(self, task: Task, answer: str) -> Judgement:
        return self._ask("verify", lambda: checked_judgement(self.team.verify.verify(task, answer, self.usage), task))

    def _ask(self, role: str, ask: Callable[[], Value]) -> Value:
        """Asks a role, and asks again after answers that cannot be used."""
        try:
            return asked(ask, self.bounds.max_asks)
        except CutReply as error:
            raise GivenUp(str(error)) from None
        except RoleError as error:
            raise GivenUp(f"{role} is unusable: {error}") from None


def _numbers(environment: Any, sight: Sight, index: int, box: Box, num_views: int) -> list[float]:
    """A box (UNIT of an image of the episode) as the model writes it.

    Raises:
        GivenUp: for an environment that does not say in which frame that is.
    """
    framing: Framing | None = getattr(environment, "framing", None)
    if framing is None:
        raise GivenUp("the environment has no framing: in which frame boxes are written is not known")
    if framing.frame is Frame.UNIT:
        return [round(value, 3) for value in box.coordinates]
    view = View(sight.image.size, sight.image.size)
    if index < num_views:
        view = framing.view(index)
    elif framing.frame is Frame.ORIGINAL:
        left, top, right, bottom = pixels_under(sight.region, framing.view(sight.root).original)
        view = View((right - left, bottom - top), sight.image.size)
    return [round(value) for value in box.to(framing.frame, view).coordinates]
