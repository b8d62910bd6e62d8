"""Zooms and answers as other projects write them, turned into the zoom environment's tags.

Inside, a call is `<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d", "img_idx", …}}</tool_call>` and an
answer `<answer>…</answer>`. The numbers of boxes stay as they were written; `Cutting` says how to read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from environments.protocol import behind_thoughts
from environments.trace_calls import read_literal
from environments.traces import TraceError
from fovea.answers.boxes import is_four_numbers
from fovea.answers.text import boxed
from fovea.boxes import Box, Frame, Size
from fovea.images import image_size
from fovea.placeholders import PLACEHOLDER, parts_of
from synthesis.formats.layouts import Message

TOOL = "image_zoom_in_tool"
BOX_NAMES = ("bbox_2d", "bbox", "box", "bounding_box")
INDEX_NAMES = ("img_idx", "image_idx", "image_index", "img_index")
MARGIN = 0.1
"""Share of the image's sides that Pixel-Reasoner's tool adds to a box on each side."""
POINT_RADIUS, DOTTED_RADIUS = 182, 100
"""Pixels from a point of ViGoRL to the sides of its crop: of a visual search, and where a red dot marks the point."""


@dataclass(frozen=True)
class Cutting:
    """In which frame a project writes boxes, and what its tool cuts for one: None is to be found out.

    The box is enlarged about its centre by `scale`, then by `margin` (UNIT of the image) on each side.
    """

    frame: Frame | None = None
    scale: float | None = None
    margin: float = 0.0

    def region(self, box: Box) -> Box:
        """The region (UNIT, it may reach beyond the image) that the tool cuts for a box in UNIT."""
        x1, y1, x2, y2 = box.enlarged(self.scale or 1.0).coordinates
        return Box(x1 - self.margin, y1 - self.margin, x2 + self.margin, y2 + self.margin, Frame.UNIT)


class Images:
    """The images of a trace, as far as calls need them: how many first views there are, and how large one is."""

    def __init__(self, num_views: int, sources: Sequence[Any]) -> None:
        self.num_views, self._sources = num_views, sources

    def size(self, index: int) -> Size:
        return image_size(self._sources[index])


_TAG = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)
_GROUNDING = re.compile(r"<grounding>(.*?)</grounding>", re.DOTALL)
_OLD_BOX = re.compile(r"<\|box_start\|>(.*?)<\|box_end\|>", re.DOTALL)
_OLD_ZOOM = re.compile(rf"<\|image_zoomin\|>\s*(?:{PLACEHOLDER})?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _tag(box: Any, index: int, **others: Any) -> str:
    arguments = {"bbox_2d": box, **others, "img_idx": index}
    return f"<tool_call>\n{json.dumps({'name': TOOL, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def _grounding(text: str, images: Images) -> tuple[str, set[Cutting]]:
    """Mini-o3: shares of the image named by `source`, where observation N is the Nth crop."""

    def call(match: re.Match) -> str:
        try:
            written = read_literal(match[1])
            source = str(written.get("source", "original_image"))
            number = re.fullmatch(r"observation_(\d+)", source)
        except (ValueError, AttributeError):
            return f"<tool_call>{match[1]}</tool_call>"
        is_original = source == "original_image" or (number and int(number[1]) == 0)
        index = 0 if is_original else images.num_views - 1 + int(number[1]) if number else -1
        return _tag(written.get("bbox_2d"), index)

    return _GROUNDING.sub(call, text), {Cutting(Frame.UNIT, 1.0)}


def _crop_image(arguments: Mapping[str, Any], images: Images, observation: str) -> tuple[Any, int, Cutting]:
    """Pixel-Reasoner: shares of the image `target_image`, counted from 1."""
    target, numbers = arguments.get("target_image", 1), arguments.get("bbox_2d")
    is_shares = is_four_numbers(numbers) and max(numbers or ()) <= 1
    cutting = Cutting(Frame.UNIT, 1.0, MARGIN) if is_shares else Cutting(None, 1.0)
    return numbers, target - 1 if isinstance(target, int) else -1, cutting


def _search_coordinate(arguments: Mapping[str, Any], images: Images, observation: str) -> tuple[Any, int, Cutting]:
    """ViGoRL: a point in pixels of the first image; its crop is a square around it, smaller at the border."""
    point, cutting = arguments.get("coordinate"), Cutting(Frame.ORIGINAL, 1.0)
    radius = DOTTED_RADIUS if "red dot" in observation else POINT_RADIUS
    if not isinstance(point, (list, tuple)) or len(point) != 2 or not all(isinstance(x, (int, float)) for x in point):
        return point, 0, cutting
    width, height = images.size(0)
    x, y = point
    return [max(0, x - radius), max(0, y - radius), min(width, x + radius), min(height, y + radius)], 0, cutting


FOREIGN_TOOLS: Mapping[str, Callable[[Mapping[str, Any], Images, str], tuple[Any, int, Cutting]]] = {
    "crop_image": _crop_image,
    "crop_image_normalized": _crop_image,
    "search_coordinate": _search_coordinate,
}
"""Zoom tools of others by name: of arguments, images and the words behind the call they give box, image and reading."""


def _tool_calls(text: str, images: Images, observation: str, zoom_tools: Sequence[str]) -> tuple[str, set[Cutting]]:
    """Calls in tags: tools of others become the environment's, and JSON is read as leniently as Hermes does."""
    cuttings: set[Cutting] = set()

    def tag(match: re.Match) -> str:
        try:
            written = read_literal(match[1])
            calls = [_read(one) for one in (written if isinstance(written, list) else [written])]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return match[0]
        return "\n".join(tag_of(call, match if len(calls) == 1 else None) for call in calls)

    def tag_of(call: dict[str, Any], match: re.Match | None) -> str:
        if (foreign := FOREIGN_TOOLS.get(call["name"])) is None:
            cuttings.add(Cutting())
            return _renamed(call, match, zoom_tools)
        box, index, cutting = foreign(call["arguments"], images, observation)
        cuttings.add(cutting)
        return _tag(box, index)

    return _TAG.sub(tag, text), cuttings


def _read(written: Any) -> dict[str, Any]:
    arguments = written.get("arguments", written.get("parameters", {}))
    arguments = read_literal(arguments) if isinstance(arguments, str) else arguments
    return {"name": written["name"], "arguments": dict(arguments)}


def _renamed(call: dict[str, Any], match: re.Match | None, zoom_tools: Sequence[str]) -> str:
    """The call with the environment's names for its tool and arguments; as it was written where it has them."""
    arguments = call["arguments"]
    box_name = next((name for name in BOX_NAMES if name in arguments), None)
    index_name = next((name for name in INDEX_NAMES if name in arguments), None)
    renamed = {box_name: "bbox_2d", index_name: "img_idx"}
    named = {renamed.get(key, key): value for key, value in arguments.items()}
    if box_name is not None:
        named["bbox_2d"] = numbers_of(named["bbox_2d"])
    if isinstance(named.get("img_idx"), str) and named["img_idx"].strip().isdigit():
        named["img_idx"] = int(named["img_idx"])
    name = TOOL if call["name"] in zoom_tools else call["name"]
    if match is not None and (name, named) == (call["name"], arguments) and _is_json(match[1]) and match[2]:
        return match[0]
    written = json.dumps({"name": name, "arguments": named}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n{'</tool_call>' if match is None else match[2]}"


def numbers_of(box: Any) -> Any:
    """Four numbers of a box that is written as texts, as corners, as an object or as a list of one; else the value.

    >>> numbers_of([["1", 2], [3, 4.5]]), numbers_of({"x1": 1, "y1": 2, "x2": 3, "y2": 4}), numbers_of("?")
    ([1, 2, 3, 4.5], [1, 2, 3, 4], '?')
    """
    value = box
    if isinstance(value, Mapping):
        value = [value.get(name) for name in ("x1", "y1", "x2", "y2")]
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, (list, tuple)) for one in value):
        value = [*value[0], *value[1]]
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return box
    try:
        return [read_literal(one) if isinstance(one, str) else one for one in value]
    except ValueError:
        return box


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _one_text(message: Message) -> list[Message]:
    """Chain-of-Focus's older form: one text of the assistant, in which crops stand behind `<|image_zoomin|>`.

    The last box before a zoom is the one that is meant. The text up to a zoom is a turn, the crop what follows it.
    """
    pieces = _OLD_ZOOM.split(message.text)
    zooms = _OLD_ZOOM.findall(message.text)
    messages = []
    for piece, zoom in zip(pieces, [*zooms, None], strict=True):
        boxes = [_NUMBER.findall(inside) for inside in _OLD_BOX.findall(piece)]
        thought = re.sub(r"</?think>", "", _OLD_BOX.sub("", piece)).strip()
        if zoom is None:
            thought, tag, answer = thought.partition("<answer>")
            messages.append(Message("assistant", f"<think>{thought.strip()}</think>\n{tag}{answer}"))
            continue
        numbers = [float(number) if "." in number else int(number) for number in boxes[-1]] if boxes else None
        messages.append(Message("assistant", f"<think>{thought}</think>\n{_tag(numbers, 0)}"))
        messages.append(Message("tool", PLACEHOLDER if PLACEHOLDER in zoom else ""))
    return messages


def with_answer_tag(text: str, *, plain: bool) -> str:
    r"""A last turn with its answer in tags: that of `\boxed{}`, or with `plain` all that follows the thoughts."""
    thoughts, body = behind_thoughts(text)
    if "<answer>" in body or "<tool_call>" in body:
        return text
    if answer := (boxed(body) or "").strip():
        thought = re.sub(r"\$+$", "", body[: body.rfind("\\boxed{")].strip()).strip()
        return f"{thoughts}{thought}\n<answer>{answer}</answer>"
    if not plain or not body.strip():
        return text
    return f"{thoughts}\n<answer>{body.strip()}</answer>".lstrip()


def translated(
    messages: Sequence[Message], sources: Sequence[Any], *, plain: bool, zoom_tools: Sequence[str]
) -> tuple[list[Message], Cutting]:
    """The messages with calls and answers as the environment reads them, and how the boxes are meant.

    `plain` takes a last turn without a call or a tag for an answer. `zoom_tools` are further names of the zoom tool.

    Raises:
        TraceError: for a trace that mixes two ways to write boxes.
    """
    messages = [one for message in messages for one in (_one_text(message) if _is_old(message) else [message])]
    first = next((number for number, message in enumerate(messages) if message.role == "assistant"), len(messages))
    images = Images(sum(len(parts_of(message.text)) - 1 for message in messages[:first]), sources)
    cuttings: set[Cutting] = set()
    written = []
    last = max((number for number, message in enumerate(messages) if message.role == "assistant"), default=-1)
    for number, message in enumerate(messages):
        if message.role != "assistant":
            written.append(message)
            continue
        following = messages[number + 1].text if number + 1 < len(messages) else ""
        text = message.text
        if "<grounding>" in text:
            text, found = _grounding(text, images)
            cuttings |= found
        if "<tool_call>" in message.text:
            text, found = _tool_calls(text, images, following, zoom_tools)
            cuttings |= found
        written.append(replace(message, text=with_answer_tag(text, plain=plain) if number == last else text))
    if len(cuttings) > 1:
        raise TraceError(
            "its calls are written in several ways, or call several tools: only the zoom tool is played again"
        )
    return written, cuttings.pop() if cuttings else Cutting()


def _is_old(message: Message) -> bool:
    return message.role == "assistant" and "<|image_zoomin|>" in message.text
