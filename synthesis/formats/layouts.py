"""Rows of anyone's trace file as conversations: where messages stand, who speaks, what is an image, what is a call.

Read from the public layouts of LLaMA-Factory (sharegpt and OpenAI), ms-swift, TRL, Hermes, Chain-of-Focus,
Pixel-Reasoner, Mini-o3 and ViGoRL. Nothing here knows what a call means; `dialects` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

from environments.trace_calls import CallError, call_tag
from environments.trace_files import without_messages
from environments.traces import TraceError
from fovea.placeholders import PLACEHOLDER, escaped, parts_of
from synthesis.formats.calls import literal_at, short, thought_and_json

COLUMNS = ("messages", "conversations", "conversation", "message_list")
"""Columns that may hold a conversation, besides `prompt` and `completion`."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function": "tool",
}
"""The roles of all layouts; a `call` is a turn of the assistant that holds nothing but the JSON of calls."""
_WRAPPED = re.compile(r"\s*<(tool_response|observation)>\n?(.*?)\n?</\1>\s*", re.DOTALL)


@dataclass
class Message:
    """One message: `system`, `user`, `assistant` or `tool`, and its text with `<image>` where an image stands."""

    role: str
    text: str
    images: list[Any] = field(default_factory=list)
    """Sources of its images."""
    call_ids: tuple[str, ...] = ()
    """Ids of the calls in it, or of the one that it answers."""

    @property
    def num_placeholders(self) -> int:
        return len(parts_of(self.text)) - 1


@dataclass
class Conversation:
    """The messages of a row, and its images in the order of their placeholders."""

    messages: list[Message]
    images: list[Any]
    layout: frozenset[str]
    """Names of the row's columns, keys and roles, by which formats are recognised."""


def conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row.

    Raises:
        TraceError: for a row that holds none, or whose images are not those that its messages show.
    """
    column, written = _written(row)
    messages: list[Message] = []
    roles, keys = set(), set()
    for number, raw in enumerate(written):
        if not isinstance(raw, Mapping):
            raise TraceError(f"{column}[{number}] is {short(raw)}: it must be an object with a role and a text")
        raw = {key: value for key, value in raw.items() if value is not None}
        role_key = next((key for key in ("role", "from") if key in raw), None)
        role = raw.get(role_key or "role")
        if not isinstance(role, str) or role not in ROLES:
            raise TraceError(f"{column}[{number}] has the role {short(role)}: use one of {', '.join(ROLES)}")
        roles.add(role)
        keys |= set(raw)
        messages.append(_message(raw, ROLES[role], f"{column}[{number}]"))
    _refuse_objects(row, messages)
    _place_images(row, messages)
    messages = list(_joined(_in_order_of_calls(_tools_crops(messages))))
    images = [image for message in messages for image in message.images]
    return Conversation(messages, images, frozenset({column, *roles, *keys}))


def _written(row: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    """The name of the column that holds the messages, and what it holds."""
    for column in COLUMNS:
        value = row.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = literal_at(value, column)
        if isinstance(value, (list, tuple)) and value:
            return column, value
        if value:
            raise TraceError(f"{column} is {short(value)}: it must be a list of messages")
    if row.get("prompt") and row.get("completion"):
        return "prompt", [
            *_side(row["prompt"], "user"),
            *_side(row["completion"], "assistant"),
        ]
    if isinstance(row.get("query"), str) and isinstance(row.get("response"), str):
        turns = [*(row.get("history") or ()), (row["query"], row["response"])]
        sides = [[("user", query), ("assistant", response)] for query, response in turns]
        return "query", [{"role": role, "content": text} for side in sides for role, text in side]
    raise without_messages(row)


def _side(value: Any, role: str) -> Sequence[Any]:
    """A prompt or a completion, which may be a text alone."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, (list, tuple)):
        raise TraceError(f"a prompt or a completion is {short(value)}: it must be text, or a list of messages")
    return value


def _message(raw: Mapping[str, Any], role: str, where: str) -> Message:
    """A written message; thoughts and calls beside its text, or in place of it, become tags in the text."""
    text, images = _content(raw.get("content", raw.get("value", "")), where)
    calls = raw.get("tool_calls") or raw.get("function_call") or ()
    if calls and role != "assistant":
        raise TraceError(f"{where}.tool_calls: only the assistant calls tools")
    if role == "call":
        head, tail = thought_and_json(text)
        calls = () if "<tool_call>" in tail else literal_at(tail, where)
        text = text if "<tool_call>" in tail else head
    calls = calls if isinstance(calls, (list, tuple)) else [calls]
    thought = next((raw[key] for key in ("reasoning_content", "reasoning") if isinstance(raw.get(key), str)), "")
    thought = f"<think>{escaped(thought.strip())}</think>" if thought.strip() else ""
    try:
        text = "\n".join(part for part in (thought, text, *map(call_tag, calls)) if part)
    except CallError as error:
        raise TraceError(f"{where}: {error}") from None
    ids = [call.get("id") for call in calls if isinstance(call, Mapping)] if calls else [raw.get("tool_call_id")]
    known = tuple(str(one) for one in ids if one is not None)
    text = _unwrapped(text) if role in ("user", "tool") else text
    return Message("assistant" if role == "call" else role, text, images, known)


_NAMED_IMAGE = re.compile(r"(?:Picture \d+:\s*)?<img>([^<\n]+)</img>")
"""An image by its path, as Qwen-VL's files and old ones of ms-swift write it."""


def _content(content: Any, where: str) -> tuple[str, list[Any]]:
    """The text of a content and the images that stand in it."""
    if isinstance(content, str):
        return _NAMED_IMAGE.sub(PLACEHOLDER, content), _NAMED_IMAGE.findall(content)
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, (list, tuple)):
        raise TraceError(f"{where}.content is {short(content)}: it must be text, or a list of blocks")
    texts, images, num_bare = [], [], 0
    for block in content:
        if isinstance(block, str):
            texts.append(block)
            continue
        block = {k: v for k, v in block.items() if v is not None} if isinstance(block, Mapping) else {}
        is_image = block.get("type") in ("image", "image_url") or ("image" in block and not block.get("text"))
        if isinstance(block.get("text"), str) and not is_image:
            texts.append(escaped(block["text"]))
        elif is_image:
            source = block.get("image", block.get("image_url", block.get("path", block.get("url"))))
            source = source.get("url") if isinstance(source, Mapping) and "url" in source else source
            texts.append(PLACEHOLDER)
            images += [source] if source is not None else []
            num_bare += source is None
        else:
            raise TraceError(f"{where}.content holds {short(block)}: blocks are texts and images")
    if images and num_bare:
        raise TraceError(f"{where}.content names some of its images and leaves others to the row's: name all or none")
    return "".join(texts), images


def _unwrapped(text: str) -> str:
    """The text that a tool returned, without the tags around it."""
    parts = _WRAPPED.findall(text)
    return "\n".join(part for _, part in parts) if parts and not _WRAPPED.sub("", text).strip() else text


def _refuse_objects(row: Mapping[str, Any], messages: Sequence[Message]) -> None:
    """Raises TraceError for texts that ms-swift would fill in from the row's `objects`."""
    if row.get("objects") and any(re.search(r"<bbox>|<ref-object>", message.text) for message in messages):
        raise TraceError(
            "its texts hold <bbox> or <ref-object>, which `objects` fill in: write the boxes into the texts"
        )


def _tools_crops(messages: Sequence[Message]) -> Iterator[Message]:
    """Images that the user shows right behind a tool's answer are the tool's: OpenAI's tools return only text."""
    before = ""
    for message in messages:
        is_crop = before == "tool" and message.role == "user" and bool(message.images)
        yield replace(message, role="tool") if is_crop else message
        before = "tool" if is_crop else message.role


def _in_order_of_calls(messages: Iterable[Message]) -> Iterator[Message]:
    """Answers of tools in the order of the calls that they name by id."""
    order: dict[str, int] = {}
    for role, run in groupby(messages, key=lambda message: message.role):
        group = list(run)
        if role == "assistant":
            order = {one: place for place, one in enumerate(one for message in group for one in message.call_ids)}
        elif role == "tool" and all(message.call_ids and message.call_ids[0] in order for message in group):
            group.sort(key=lambda message: order[message.call_ids[0]])
        yield from group


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages of the assistant that follow each other are one turn: thoughts and calls stand apart in some layouts."""
    for role, run in groupby(messages, key=lambda message: message.role):
        group = list(run)
        if role != "assistant":
            yield from group
            continue
        calls_only = [message for message in group[1:] if message.text.lstrip().startswith("<tool_call>")]
        if len(calls_only) != len(group) - 1:
            raise TraceError("the assistant speaks twice in a row: join the two turns")
        text = "\n".join(message.text.strip() for message in group) if len(group) > 1 else group[0].text
        yield Message(role, text, [image for message in group for image in message.images])


def _place_images(row: Mapping[str, Any], messages: Sequence[Message]) -> None:
    """Gives the images that the row holds to the messages that show them."""
    held = row.get("images") if row.get("images") is not None else row.get("image")
    held = [] if held is None else list(held) if isinstance(held, (list, tuple)) else [held]
    held = [one["image"] if isinstance(one, Mapping) and one.keys() == {"image"} else one for one in held]
    num_shown = sum(message.num_placeholders for message in messages)
    inline = sum(len(message.images) for message in messages)
    if inline and held:
        raise TraceError(f"messages hold {inline} images and the row {len(held)} more: name each once")
    if held and not num_shown:
        first = next((message for message in messages if message.role == "user"), None)
        if first is None or any("<tool_call>" in message.text for message in messages):
            raise TraceError(
                f"messages hold no {PLACEHOLDER} placeholders for {len(held)} images: say where they stand"
            )
        first.text = PLACEHOLDER * len(held) + first.text
    elif num_shown != (inline or len(held)):
        raise TraceError(f"messages hold {num_shown} {PLACEHOLDER} placeholders for {inline or len(held)} images")
    left = iter(held)
    for message in messages if held else ():
        message.images = list(islice(left, message.num_placeholders))
