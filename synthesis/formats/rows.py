"""One function a format: a trace of ours as a row of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from environments.protocol import behind_thoughts, parse_actions
from fovea.boxes import Box, Size
from fovea.episodes import Call
from fovea.placeholders import PLACEHOLDER, parts_of

_TAG = re.compile(r"\s*<tool_call>\n?(.*?)\n?</tool_call>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Drawn:
    """A zoom as another project's tool would be asked for it: a box (UNIT of image `img_idx`), and what it returns."""

    box: Box
    img_idx: int
    root: int
    region: Box


@dataclass(frozen=True)
class WrittenTrace:
    """A record of ours (`messages`, `images` as paths, `id`) with its zooms."""

    record: Mapping[str, Any]
    zooms: Sequence[Drawn]
    num_views: int
    first_size: Size
    """Width and height of the first image in the file, in pixels."""
    tools: str
    """The schemas of the environment's tools, as JSON."""

    @property
    def messages(self) -> Sequence[Mapping[str, str]]:
        return self.record["messages"]

    @property
    def base(self) -> dict[str, Any]:
        """Columns that all formats keep of the record beside its messages."""
        return {"images": self.record["images"], "id": self.record["id"]}

    @property
    def base_with_tools(self) -> dict[str, Any]:
        """The same for formats that declare their tools in a column."""
        return {**self.base, "tools": self.tools}


def _calls(text: str) -> list[Call]:
    return [action for action in parse_actions(text) if isinstance(action, Call)]


def _without_calls(text: str) -> str:
    thoughts, body = behind_thoughts(text)
    return (thoughts + _TAG.sub("", body)).strip()


def _json_of(call: Call) -> str:
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)


def _plain(message: Mapping[str, str]) -> str:
    """The text of a message; an answer of the assistant stands without its tags behind the thoughts."""
    if message["role"] != "assistant":
        return message["content"]
    thoughts, body = behind_thoughts(message["content"])
    return thoughts + _ANSWER.sub(lambda match: match[1], body)


def fovea(trace: WrittenTrace) -> dict[str, Any]:
    return {"messages": trace.messages, **trace.base}


def chain_of_focus(trace: WrittenTrace) -> dict[str, Any]:
    """Crops in user turns, as MM-CoF writes them."""
    turned = [{**m, "role": "user"} if m["role"] == "tool" else m for m in trace.messages]
    return {"messages": list(_merged(turned, "\n")), **trace.base}


def _merged(messages: Sequence[Mapping[str, str]], between: str) -> list[dict[str, str]]:
    """Messages of one role in a row as one."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += between + message["content"]
        else:
            merged.append(dict(message))
    return merged


def chain_of_focus_v0(trace: WrittenTrace) -> dict[str, Any]:
    """One text of the assistant, its crops within it. A box is always on the first image there.

    Raises:
        ValueError: for a zoom into another image.
    """
    texts = []
    for message in trace.messages:
        if message["role"] != "assistant":
            continue
        thought = re.sub(r"</?think>", "", _without_calls(_ANSWER.sub("", message["content"]))).strip()
        texts.append(thought)
        for call in _calls(message["content"]):
            if call.arguments.get("img_idx", 0):
                raise ValueError("the older form of Chain-of-Focus zooms into the first image alone")
            box = json.dumps(call.arguments["bbox_2d"])
            texts.append(f"<|box_start|>{box}<|box_end|><|image_zoomin|>{PLACEHOLDER}")
    answer = _ANSWER.search(trace.messages[-1]["content"])
    written = f"<think> {' '.join(texts)} </think> {answer[0] if answer else ''}"
    asked = next(message for message in trace.messages if message["role"] == "user")
    return {"messages": [asked, {"role": "assistant", "content": written}], **trace.base}


def sharegpt(trace: WrittenTrace) -> dict[str, Any]:
    """LLaMA-Factory: turns of two sides by turns; several calls are a list, their observations one message."""
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    rows = []
    for message in _merged(trace.messages, "\n"):
        row = {"from": names[message["role"]], "value": message["content"]}
        if message["role"] == "assistant" and (calls := list(map(_json_of, _calls(message["content"])))):
            written = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
            row = {"from": "function_call", "value": f"{_without_calls(message['content'])}\n\n{written}"}
        elif message["role"] == "assistant":
            row["value"] = _plain(message)
        rows.append(row)
    return {"conversations": rows, **trace.base_with_tools}


def swift(trace: WrittenTrace) -> dict[str, Any]:
    """ms-swift: a message for each call and each response."""
    rows: list[dict[str, str]] = []
    for message in trace.messages:
        calls = _calls(message["content"]) if message["role"] == "assistant" else []
        if calls:
            rows.append({"role": "assistant", "content": _without_calls(message["content"])})
            rows += [{"role": "tool_call", "content": _json_of(call)} for call in calls]
        elif message["role"] == "tool":
            rows.append({"role": "tool_response", "content": message["content"]})
        else:
            rows.append({"role": message["role"], "content": _plain(message)})
    return {"messages": rows, **trace.base_with_tools}


def trl(trace: WrittenTrace) -> dict[str, Any]:
    """TRL: prompt and completion of blocks, calls beside the text. Crops stand in user turns: TRL fills only those."""
    rows = []
    for message in _merged(trace.messages, "\n"):
        calls = _calls(message["content"]) if message["role"] == "assistant" else []
        text = _without_calls(message["content"]) if calls else _plain(message)
        row: dict[str, Any] = {
            "role": "user" if message["role"] == "tool" else message["role"],
            "content": _blocks(text),
        }
        if calls:
            functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
            row["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        rows.append(row)
    start = next(number for number, row in enumerate(rows) if row["role"] == "assistant")
    return {"prompt": rows[:start], "completion": rows[start:], **trace.base_with_tools}


def _blocks(text: str) -> list[dict[str, str]]:
    blocks: list[dict[str, str]] = []
    for number, part in enumerate(parts_of(text)):
        blocks += [{"type": "image"}] if number else []
        blocks += [{"type": "text", "text": part}] if part else []
    return blocks


def hermes(trace: WrittenTrace) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
    rows = []
    for message in trace.messages:
        text = _plain(message)
        if message["role"] == "tool":
            text = f"<tool_response>\n{text}\n</tool_response>"
        rows.append({"from": names[message["role"]], "value": text})
    return {"conversations": rows, **trace.base_with_tools}


def mini_o3(trace: WrittenTrace) -> dict[str, Any]:
    """Mini-o3: shares of the image that `source` names; what follows an observation are the tool's words there.

    Raises:
        ValueError: for a zoom into another first image.
    """

    def grounding(_: re.Match) -> str:
        zoom = next(zooms)
        if 0 < zoom.img_idx < trace.num_views:
            raise ValueError("Mini-o3 zooms into one original image alone")
        source = f"observation_{zoom.img_idx - trace.num_views + 1}" if zoom.img_idx else "original_image"
        return f"\n<grounding>{json.dumps({'bbox_2d': _shares(zoom), 'source': source})}</grounding>"

    def observation(_: str) -> str:
        number = next(numbers)
        place = f"Action {number}, here is the the zoom-in image (Observation {number + 1})"
        return f"After the above {place}:\n{PLACEHOLDER}."

    zooms, numbers = iter(trace.zooms), iter(range(len(trace.zooms)))
    names = {"system": "system", "assistant": "gpt", "user": "human"}
    rows = _retold(trace, grounding, observation)
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in rows], **trace.base}


def pixel_reasoner(trace: WrittenTrace) -> dict[str, Any]:
    """Pixel-Reasoner: blocks without a type that hold the images, shares of the image `target_image`, from 1."""

    def crop_image(_: re.Match) -> str:
        zoom = next(zooms)
        arguments = {"bbox_2d": _shares(zoom), "target_image": zoom.img_idx + 1}
        return f"\n<tool_call>\n{json.dumps({'name': 'crop_image_normalized', 'arguments': arguments})}\n</tool_call>"

    if re.search(r"[{}]", "".join(_ANSWER.findall(trace.messages[-1]["content"]))):
        raise ValueError("Pixel-Reasoner writes answers in braces, and this answer holds some")
    zooms, images = iter(trace.zooms), iter(trace.record["images"])
    rows = []
    for message in _retold(trace, crop_image, lambda _: f"Here is the cropped image:{PLACEHOLDER}"):
        content: list[dict[str, Any]] = []
        for number, part in enumerate(
            parts_of(_ANSWER.sub(lambda match: f"\\boxed{{{match[1]}}}", message["content"]))
        ):
            content += [{"image": next(images)}] if number else []
            content += [{"text": part}] if part else []
        rows.append({"role": message["role"], "content": content})
    return {"qid": trace.record["id"], "message_list": rows}


def vigorl(trace: WrittenTrace) -> dict[str, Any]:
    """ViGoRL: the centre of each box, in pixels of the first image. The sizes of boxes are lost: its crops have one.

    Raises:
        ValueError: for a zoom into another image.
    """

    def search_coordinate(_: re.Match) -> str:
        zoom = next(zooms)
        if zoom.img_idx:
            raise ValueError("ViGoRL zooms into the first image alone")
        x, y = centre(zoom.box, trace.first_size)
        call = json.dumps({"name": "search_coordinate", "arguments": {"coordinate": [x, y]}})
        return f"\n<tool_call>\n{call}\n</tool_call>"

    zooms = iter(trace.zooms)
    words = f"<observation>\nHere is the crop of the image centered on the coordinate:\n{PLACEHOLDER}\n</observation>"
    return {"messages": _retold(trace, search_coordinate, lambda _: words), **trace.base}


def _retold(
    trace: WrittenTrace, call: Callable[[re.Match], str], observation: Callable[[str], str]
) -> list[dict[str, str]]:
    """The messages with other calls and other words of the tool, which speaks in the user's turns."""
    rows = []
    for message in trace.messages:
        role, text = message["role"], message["content"]
        if role == "assistant":
            thoughts, body = behind_thoughts(text)
            text = thoughts + _TAG.sub(call, body)
        elif role == "tool":
            role, text = "user", observation(text)
        rows.append({"role": role, "content": text})
    return _merged(rows, "\n")


def _shares(zoom: Drawn) -> list[float]:
    return [round(value, 4) for value in zoom.box.coordinates]


def centre(box: Box, size: Size) -> tuple[int, int]:
    """The centre of a box (UNIT), in whole pixels of an image of this size."""
    return round((box.x1 + box.x2) / 2 * size[0]), round((box.y1 + box.y2) / 2 * size[1])
