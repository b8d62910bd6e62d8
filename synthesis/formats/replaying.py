"""A trace of others, played again in the environment of the model that is to be trained.

Boxes are turned into the model's frame, observations are the environment's own. What was changed is counted.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from PIL import Image

from environments.play import play
from environments.policies.replay import NoTextLeft
from environments.protocol import behind_thoughts, parse_actions
from environments.seats import Conversation, Limits, Reply, tools_of
from environments.trace_crops import UNLIKE, likeness
from environments.traces import TraceError, blocks_of, images_of, text_of, to_trace, unfit
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import UNIT_VIEW, WHOLE, Box, Frame, Framing, Size, View, coverage, iou
from fovea.data.columns import check_types
from fovea.data.references import checked, kind_of
from fovea.episodes import Answer, Call, Crop, Episode, Fault
from fovea.images import PixelLimits, cut, fit, pixels_under
from fovea.placeholders import MARK
from fovea.tasks import Task
from synthesis.formats.dialects import Cutting
from synthesis.formats.reading import ForeignTrace
from synthesis.formats.wording import Changes, calls_in, in_protocol, question_of, with_calls

_BOX = re.compile(r"bbox|^\s*[\[(]?\s*-?[\d.]+(?:\s*,\s*-?[\d.]+){3}\s*[\])]?\s*$")
_COORDINATES = re.compile(r"[\[(]\s*\d+(?:\.\d+)?\s*,\s*\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){0,2}\s*[\])]")
WHOLE_SHARE = 0.98
"""Share of a box from which an image is taken to show all of it."""
SAME_REGION = 0.9
"""Intersection over union from which a file's crop shows what the environment would cut."""


@dataclass(frozen=True)
class Stage:
    """Settings of a replay: the environment, the model's frame and limits, and the text to remove from questions."""

    make_environment: Callable[[], Any]
    frame: Frame
    source_limits: PixelLimits
    """Between how many pixels the file's model saw first views; boxes in INPUT are in such pixels."""
    strip: re.Pattern | None = None


@dataclass(frozen=True)
class Place:
    """The content of a conversation's image: a region (UNIT) of the task's image `root`. Boxes on it are in `view`."""

    root: int
    region: Box
    view: View


def places_of(
    messages: Iterable[Mapping[str, Any]], sizes: Sequence[Size], framing: Framing | None, frame: Frame
) -> list[Place]:
    """The content of a conversation's images: first views of originals of `sizes`, then crops."""
    framing = framing or Framing(frame)
    places = [Place(root, WHOLE, framing.view(root)) for root in range(len(sizes))]
    for block in (block for message in messages for block in blocks_of(message["content"])):
        if isinstance(crop := block.get("crop"), Crop):
            left, top, right, bottom = pixels_under(crop.region, sizes[crop.root])
            places.append(Place(crop.root, crop.region, View((right - left, bottom - top), crop.input_size)))
    return places


class Rewriting:
    """A policy that writes the turns of one trace, with its boxes as the model would have written them."""

    def __init__(self, turns: Sequence[_Turn], views: Sequence[Image.Image], cutting: Cutting, stage: Stage) -> None:
        self.changes = Changes()
        self.cuts: list[tuple[Box, Image.Image | None]] = []
        """The region (UNIT of its root) that each call cut in the file, and the crop there."""
        self._turns, self._sizes, self._frame = turns, [view.size for view in views], stage.frame
        self._cutting, self._source_limits = cutting, stage.source_limits
        first_views = [View(view.size, fit(view, stage.source_limits).size) for view in views]
        self._theirs = [Place(root, WHOLE, view) for root, view in enumerate(first_views)]
        tools = tools_of(stage.make_environment())
        self._parameters = {name: tuple(inspect.signature(tool).parameters) for name, tool in tools.items()}

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        [conversation] = conversations
        number = sum(message["role"] == "assistant" for message in conversation.messages)
        if number == len(self._turns):
            raise NoTextLeft("it ends without an answer")
        turn = self._turns[number]
        written = in_protocol(turn.text)
        self.changes.note("turns put into the protocol's form", turn.text.strip(), written)
        ours = places_of(conversation.messages, self._sizes, conversation.framing, self._frame)
        crops = iter(turn.crops)
        new: list[Place] = []
        text = with_calls(written, lambda call: self._rewritten(call, ours, next(crops, None), new))
        self._theirs += new
        return [Reply(text)]

    def _rewritten(self, text: str, ours: list[Place], crop: Image.Image | None, new: list[Place]) -> str:
        """The JSON of a call with its box in the model's frame.

        Raises:
            TraceError: for a call that the tool of the file cannot have carried out.
        """
        call, index = _read_call(text)
        if not 0 <= index < min(len(self._theirs), len(ours)):
            raise TraceError(f"a call means image {index}, and {len(self._theirs)} are shown")
        theirs = self._theirs[index]
        drawn = Box.of(call["arguments"]["bbox_2d"], self._frame_of_file).to(Frame.UNIT, theirs.view)
        if drawn.is_empty or drawn.clipped(UNIT_VIEW).is_empty:
            raise TraceError(f"a box holds nothing of its image: {text[:100]} in {self._frame_of_file.value}")
        region = self._cutting.region(drawn).clipped(UNIT_VIEW).within(theirs.region, view=theirs.view)
        new.append(Place(theirs.root, region, self._view(theirs.root, region, crop)))
        self.cuts.append((region, crop))
        target = drawn.clipped(UNIT_VIEW).within(theirs.region, view=theirs.view)
        if coverage(target, ours[index].region) < WHOLE_SHARE:  # their crop showed more than ours
            self.changes.counts["boxes drawn on the first view, since the crop does not show all of them"] += 1
            index = theirs.root
        framing = Framing(self._frame, tuple(place.view for place in ours))
        numbers = framing.write(target.relative_to(ours[index].region).clipped(UNIT_VIEW), index)
        rewritten = self._written(call, numbers, index)
        turned = f"boxes turned from {self._frame_of_file.value} into {self._frame.value}"
        self.changes.note(turned if self._frame_of_file is not self._frame else "calls reworded", text, rewritten)
        return rewritten

    def _view(self, root: int, region: Box, crop: Image.Image | None) -> View:
        """The sizes in which a box on a crop was drawn: those of the crop, or of what it must have been."""
        if crop is not None:
            return View(crop.size, crop.size)
        left, top, right, bottom = pixels_under(region, self._sizes[root])
        size = (right - left, bottom - top)
        return View(size, self._source_limits.fit_size(size))

    @property
    def _frame_of_file(self) -> Frame:
        return self._cutting.frame or self._frame

    def _written(self, call: dict[str, Any], numbers: list[float], index: int) -> str:
        """The JSON of a call, with the arguments that the tool takes."""
        arguments = {"label": "", **call["arguments"], "bbox_2d": numbers, "img_idx": index}
        known = self._parameters.get(call["name"], tuple(arguments))
        kept = {name: arguments[name] for name in known if name in arguments}
        return json.dumps({"name": call["name"], "arguments": kept}, ensure_ascii=False)


def _read_call(text: str) -> tuple[dict[str, Any], int]:
    """A call that holds a box, and the image that it means.

    Raises:
        TraceError: for any other.
    """
    [action] = parse_actions(f"<tool_call>{text}</tool_call>")
    if isinstance(action, Fault):
        raise TraceError(f"a call that cannot be read: {action.message}")
    if not isinstance(action, Call) or not is_four_numbers(action.arguments.get("bbox_2d")):
        raise TraceError(f"a call without a box: {text[:100]}")
    index = action.arguments.get("img_idx", 0)
    return {"name": action.name, "arguments": action.arguments}, index if type(index) is int else -1


@dataclass(frozen=True)
class _Turn:
    """A turn of the assistant in a file, with the words and the images that stand behind it."""

    text: str
    words: str
    crops: tuple[Image.Image, ...]


def _turns_of(messages: Sequence[dict]) -> list[_Turn]:
    turns: list[_Turn] = []
    for message in messages:
        text, images = text_of(message), tuple(images_of([message]))
        if message["role"] == "assistant":
            turns.append(_Turn(text, "", ()))
        elif turns:
            last = turns[-1]
            turns[-1] = replace(last, words=f"{last.words}\n{text}".strip(), crops=(*last.crops, *images))
    return turns


def replayed(foreign: ForeignTrace, name: str, cutting: Cutting, stage: Stage) -> tuple[Episode, Changes]:
    """The trace as an episode of the environment, and what was changed for it.

    Raises:
        TraceError: with the reason, for a trace that is no episode of the environment.
    """
    messages = to_trace(foreign.record).messages
    start = list(takewhile(lambda message: message["role"] != "assistant", messages))
    if any(message["role"] == "user" for message in messages[len(start) :]):
        raise TraceError("the user speaks again behind a turn that called no tool")
    turns, changes = _turns_of(messages), Changes()
    _check_crops(turns)
    task, views = _task_of(foreign, name, start, turns[-1].text, stage, changes)
    script = Rewriting(turns, views, cutting, stage)
    try:
        [episode] = play(script, [task], environment_factory=stage.make_environment, limits=_ANY_LENGTH)
    except NoTextLeft as error:
        raise TraceError(str(error)) from None
    if len(episode.turns) < len(turns):
        raise TraceError("more follows the answer")
    if (reason := unfit(episode)) is not None:
        raise TraceError(f"{reason}: {episode.faults[0].message}" if episode.faults else reason)
    changes.add(script.changes)
    if foreign.record["num_trailing"]:
        changes.counts["traces without the turns behind their answer"] += 1
    if start[0]["role"] == "system":
        changes.note("system prompts replaced", text_of(start[0]), text_of(episode.messages[0]))
    if cutting.frame not in (None, stage.frame) and any(
        map(_COORDINATES.search, (behind_thoughts(turn.text)[0] for turn in turns))
    ):
        changes.counts["traces whose thoughts hold coordinates, which stay as they were written"] += 1
    for theirs, ours in zip(turns, episode.turns, strict=True):
        changes.note("words of the tool replaced", theirs.words, ours.observation.text if ours.observation else "")
    return _with_kept_crops(episode, script, views, changes), changes


_ANY_LENGTH = Limits(max_turns=2**31, max_tokens_per_turn=2**31, max_completion_tokens=2**31)


def _task_of(
    foreign: ForeignTrace, name: str, start: Sequence[dict], last: str, stage: Stage, changes: Changes
) -> tuple[Task, list[Image.Image]]:
    """The task of a trace, its reference the trace's own answer, and its opened images."""
    [answer, *_] = parse_actions(last)
    if not isinstance(answer, Answer):
        raise TraceError("it ends without an answer")
    asked = [block for message in start if message["role"] == "user" for block in blocks_of(message["content"])]
    views = [block["image"] for block in asked if block["type"] == "image"]
    whole = "".join(MARK if block["type"] == "image" else block["text"] for block in asked)
    head = re.match(rf"[\s{MARK}]*", whole)
    lead = head[0] if head else ""
    question = question_of(whole[len(lead) :], stage.strip, changes)
    question = "".join(lead.split()) + question if MARK in question else question
    if not question.replace(MARK, "").strip() or not answer.text:
        raise TraceError("it asks nothing" if answer.text else "its answer is empty")
    if _BOX.search(answer.text):
        raise TraceError("its answer is a box: answers are not turned into another frame")
    kind = kind_of(None, answer.text, (), has_image=bool(views))
    task = Task(name, tuple(foreign.record["images"][: len(views)]), question, answer.text, kind)
    check_types({"question": question, "answer": answer.text, **dict.fromkeys(("choices", "metadata", "boxes"))}
                | {"first_view_max_pixels": None})  # fmt: skip
    return checked(task), views


def _check_crops(turns: Sequence[_Turn]) -> None:
    """Raises TraceError unless each call has its crop behind it, or none has: then all are cut anew."""
    if not any(turn.crops for turn in turns):
        return
    for number, turn in enumerate(turns):
        if (num_calls := len(calls_in(turn.text))) != len(turn.crops):
            raise TraceError(f"turns with other numbers of calls and images: turn {number} has {num_calls} calls, "
                             f"and {len(turn.crops)} images follow it")  # fmt: skip


def _with_kept_crops(episode: Episode, script: Rewriting, views: Sequence[Image.Image], changes: Changes) -> Episode:
    """The episode with the file's own pixels where its crop shows the same region, and more than the stored image can.

    Files often hold a first view that is smaller than the picture from which their crops were cut.

    Raises:
        TraceError: for a crop that shows something else than its box.
    """
    cuts = iter(script.cuts)

    def kept(block: dict) -> dict:
        if not isinstance(crop := block.get("crop"), Crop):
            return block
        region, picture = next(cuts)
        native = cut(views[crop.root], region)
        if picture is not None and (value := likeness(native, picture)) < UNLIKE:
            raise TraceError(f"a crop shows something else than its box: correlation {value:.2f}")
        is_same = picture is not None and iou(region, crop.region) >= SAME_REGION
        if picture is None or not is_same or (picture.width <= native.width and picture.size != crop.input_size):
            changes.counts["crops cut anew from the file's image"] += 1
            return block
        changes.counts["crops of the file kept, at the environment's size"] += 1
        return {**block, "image": picture.resize(crop.input_size, Image.Resampling.BICUBIC)}

    messages = [{**message, "content": list(map(kept, blocks_of(message["content"])))} for message in episode.messages]
    return replace(episode, messages=tuple(messages))
