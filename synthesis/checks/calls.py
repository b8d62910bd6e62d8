"""Problems of a trace's calls: refused by the environment, other crops, targets that no crop shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from PIL import Image

from environments.focus import FOCUS_TOOL, images_asked_for
from environments.protocol import parse_actions
from environments.seats import framing_of, tools_of
from environments.trace_crops import UNLIKE, likeness
from environments.traces import Trace, first_turn, images_of, text_of
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import UNIT_VIEW, WHOLE, Box, Frame, Framing, View
from fovea.episodes import Call, Fault, ModelFault
from fovea.images import PixelLimits, fit
from fovea.tasks import Task
from synthesis.formats.dialects import TOOL, Cutting


@dataclass
class CheckedCalls:
    """Results of checking the calls of a trace."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    num_calls: int = 0
    regions: list[tuple[int, Box]] = field(default_factory=list)
    """The image of the task, and its region (UNIT), that each crop shows."""


@dataclass(frozen=True)
class _Shown:
    picture: Image.Image
    root: int
    region: Box
    is_view: bool = False
    """True for an unchanged first view, which the environment knows at the size that the trace has it."""


class CallChecker:
    """Checks calls against an environment for a model that writes boxes in `frame` of views within `limits`."""

    def __init__(self, environment: Any, frame: Frame, limits: PixelLimits, padding: float) -> None:
        self._environment, self._frame, self._limits = environment, frame, limits
        self._tools = tools_of(environment)
        self._own = Cutting(frame, padding)

    def examine(self, trace: Trace, cutting: Cutting) -> CheckedCalls:
        """The calls of a trace whose boxes are meant as `cutting` says, or as the model's where it does not."""
        cutting = cutting if cutting.frame is not None else self._own
        views = images_of(trace.messages[: first_turn(trace)])
        self._environment.reset(task=Task("", tuple(views), "?", ""))
        shown = [_Shown(view, root, WHOLE, is_view=True) for root, view in enumerate(views)]
        found = CheckedCalls()
        for number, message in enumerate(trace.messages):
            if message["role"] != "assistant":
                continue
            behind = takewhile(lambda message: message["role"] == "tool", trace.messages[number + 1 :])
            crops = iter(images_of(behind))
            for action in parse_actions(text_of(message)):
                if isinstance(action, Fault):
                    found.problems.append(("unreadable call", f"message {number}: {action.message}"))
                if isinstance(action, Call):
                    found.num_calls += 1
                    outcome = self._examined(action, shown, crops, cutting)
                    if outcome is None:
                        continue
                    if isinstance(outcome, _Shown):
                        shown.append(outcome)
                        continue
                    kind, words = outcome
                    found.problems.append((kind, f"message {number}, {json.dumps(action.arguments)}: {words}"))
        found.regions = [(one.root, one.region) for one in shown[len(views) :]]
        return found

    def _examined(
        self, call: Call, shown: list[_Shown], crops: Iterator[Image.Image], cutting: Cutting
    ) -> _Shown | tuple[str, str] | None:
        """The image that a call shows, or its problem as (kind, words); None for a tool that does not zoom."""
        if call.name not in self._tools:
            return "refused call", f"there is no tool {call.name!r}"
        if call.name == FOCUS_TOOL:
            return self._focused(call, shown, crops, cutting)
        if call.name != TOOL:
            return None
        numbers, index = call.arguments.get("bbox_2d"), call.arguments.get("img_idx", 0)
        is_crop = isinstance(index, int) and 0 <= index < len(shown) and not shown[index].is_view
        if not is_crop and (refusal := self._refusal(call, cutting)):
            return "refused call", refusal
        if not is_four_numbers(numbers) or not isinstance(index, int) or index >= len(shown):
            return "refused call", "its box or its image is not to be read"
        source = shown[index]
        box = self._unit(numbers or (), source.picture, cutting.frame or self._frame, is_crop=is_crop)
        region = cutting.region(box).clipped(UNIT_VIEW)
        if box.is_empty or region.is_empty:
            return "refused call", f"the box holds nothing of image {index}"
        crop = next(crops, None)
        if crop is None:
            return "no crop", "no image stands behind the call"
        if (value := likeness(source.picture, crop, region)) < UNLIKE:
            return "other crop", f"the image behind the call shows something else (correlation {value:.2f})"
        return _Shown(crop, source.root, region.within(source.region, view=UNIT_VIEW))

    def _focused(
        self, call: Call, shown: list[_Shown], images: Iterator[Image.Image], cutting: Cutting
    ) -> tuple[str, str] | None:
        """The problem of a call that brings images back, or None. Later calls see the images as shown here."""
        if refusal := self._refusal(call, cutting):
            return "refused call", refusal
        for index in images_asked_for(call):
            view = next(images, None)
            if view is None:
                return "no crop", f"image {index} does not stand behind the call"
            if (value := likeness(shown[index].picture, view)) < UNLIKE:
                return (
                    "other crop",
                    f"behind the call stands another image than {index} (correlation {value:.2f})",
                )
            shown[index] = replace(shown[index], picture=view, is_view=False)
        return None

    def _unit(self, numbers: Sequence[float], picture: Image.Image, frame: Frame, *, is_crop: bool) -> Box:
        view = View(picture.size, picture.size if is_crop else fit(picture, self._limits).size)
        return Box.of(numbers, frame).to(Frame.UNIT, view)

    def _refusal(self, call: Call, cutting: Cutting) -> str | None:
        """The environment's refusal of a call on a first view. It would know a crop at another size than the trace."""
        arguments = dict(call.arguments)
        framing, index = framing_of(self._environment), arguments.get("img_idx", 0)
        is_read = framing is not None and isinstance(index, int) and 0 <= index < len(framing.views)
        if cutting.frame not in (None, self._frame) and is_read and is_four_numbers(arguments.get("bbox_2d")):
            theirs = Framing(cutting.frame or self._frame, framing.views if framing else ())
            ours = Framing(self._frame, theirs.views)
            arguments["bbox_2d"] = ours.write(theirs.read(arguments["bbox_2d"], index), index)
        try:
            self._tools[call.name](**arguments)
        except (ModelFault, TypeError) as error:
            return str(error)
        return None
