"""A function of the user's own in any role of the visual agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fovea.boxes import Box, Frame, View
from fovea.images import open_image
from fovea.tasks import Task
from synthesis.agent.roles import Judgement, Note, Sight, Usage, box_of


@dataclass(frozen=True)
class FunctionRole:
    """A function that receives, by name, what it asks for.

    locate, look and adjust are given `image` (what is shown, a PIL image), `original` (the whole picture at full size),
    `region` (the part of it that is shown, a Box in UNIT) and `task`; beside these locate `target`, look `question` and
    `notes` [(question, answer)], adjust `box` (four numbers in pixels of `image`) and `advice`. verify is given `task`,
    `question`, `reference` and `answer`, summarise `task`, `question`, `notes` and `answer`.

    A box is four numbers in pixels of `image`, or a `fovea.boxes.Box` in UNIT; None says that the target is not there.
    verify returns whether the answer is right, or in place of False advice.
    """

    function: Callable

    def locate(self, sight: Sight, target: str, usage: Usage) -> Box | None:
        usage.add("locate")
        return _box(self._call(sight, target=target), sight)

    def look(self, sight: Sight, question: str, notes: Sequence[Note], usage: Usage) -> Any:
        usage.add("look")
        return self._call(sight, question=question, notes=_asked(notes))

    def adjust(self, sight: Sight, box: Box, advice: str, usage: Usage) -> Box | None:
        usage.add("adjust")
        pixels = box.to(Frame.INPUT, _view(sight))
        return _box(self._call(sight, box=list(pixels.coordinates), advice=advice), sight)

    def verify(self, task: Task, answer: str, usage: Usage) -> Any:
        usage.add("verify")
        result = self._call(None, task=task, question=task.prompt, reference=task.answer, answer=answer)
        if isinstance(result, (bool, str)):
            return Judgement(result is True, result if isinstance(result, str) else "It is not right.")
        return result

    def summarise(self, task: Task, notes: Sequence[Note], answer: str, usage: Usage) -> Any:
        usage.add("summarise")
        return self._call(None, task=task, question=task.prompt, notes=_asked(notes), answer=answer)

    def _call(self, sight: Sight | None, **values: Any) -> Any:
        if sight is not None:
            values |= {"image": sight.image.copy(), "region": sight.region, "task": sight.task}
            if "original" in inspect.signature(self.function).parameters:
                values["original"] = open_image(sight.task.images[sight.root])
        return by_name(self.function, values)


def by_name(function: Callable, values: Mapping[str, Any]) -> Any:
    """Calls a function with those of the values that its parameters name, and returns its result.

    Raises:
        TypeError: if it asks for others.
    """
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return function(**values)
    unknown = [name for name, one in parameters.items() if name not in values and one.default is one.empty]
    if unknown:
        raise TypeError(f"{function.__name__} asks for {unknown}; in this role there are {sorted(values)}")
    return function(**{name: value for name, value in values.items() if name in parameters})


def _asked(notes: Sequence[Note]) -> list[tuple[str, str]]:
    return [(note.question, note.answer) for note in notes]


def _view(sight: Sight) -> View:
    return View(sight.image.size, sight.image.size)


def _box(value: Any, sight: Sight) -> Box | None:
    """A box of a function, in UNIT of the image that it was shown."""
    if value is None or isinstance(value, Box):
        return value
    return box_of(value, Frame.INPUT, _view(sight))
