"""Rows of anyone's trace file as conversations: where messages stand, who speaks, what is an image, what is a call.

Read from the public layouts of LLaMA-Factory (sharegpt and OpenAI), ms-swift, TRL, Hermes, Chain-of-Focus,
Pixel-Reasoner, Mini-o3 and ViGoRL. Nothing here knows what a call means; `dialects` does.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from environments.traces import TraceError
from fovea.placeholders import PLACEHOLDER, escaped, parts_of

COLUMNS = ("messages", "conversations", "conversation", "message_list")
"""Where a conversation stands, besides `prompt` and `completion`."""
ROLES = {
    "system": "system",
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
}
"""The roles of all layouts; a `call` is a turn of the assistant that holds nothing but the JSON of calls."""
_WRAPPED = re.compile(r"\s*<(tool_response|observation)>\n?(.*?)\n?</\1>\s*", re.DOTALL)


@dataclass
class Message:
    """One message: `system`, `user`, `assistant` or `tool`, and its text with `<image>` where an image stands."""

    role: str
    text: str
    images: list[Any] = field(default_factory=list)
    """Sources of those of its images that the message itself holds; the others are in the row's `images`."""


@dataclass
class Conversation:
    """The messages of a row, and its images in the order of their placeholders."""

    messages: list[Message]
    images: list[Any]
    layout: frozenset[str]
    """What the row was written with: names of columns, keys and roles, by which formats are told apart."""
    has_unplaced_images: bool = False
    """Whether no text says where the images stand: TRL puts all before the first question."""


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
            raise TraceError(f"{column}[{number}] is {_short(raw)}: it must be an object with a role and a text")
        raw = {key: value for key, value in raw.items() if value is not None}
        role_key = next((key for key in ("role", "from") if key in raw), None)
        if role_key is None or raw[role_key] not in ROLES:
            raise TraceError(f"{column}[{number}] has the role {raw.get(role_key or 'role')!r}: known are {[*ROLES]}")
        roles.add(raw[role_key])
        keys |= set(raw)
        messages += _messages(raw, ROLES[raw[role_key]], f"{column}[{number}]")
    messages = list(_joined(messages))
    placed = any(len(parts_of(message.text)) > 1 for message in messages)
    images = _images(row, messages)
    return Conversation(messages, images, frozenset({column, *roles, *keys}), bool(images) and not placed)


def _written(row: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    """The name of the column that holds the messages, and what it holds."""
    for column in COLUMNS:
        value = row.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _loaded(value, column)
        if isinstance(value, (list, tuple)) and value:
            return column, value
        if value:
            raise TraceError(f"{column} is {_short(value)}: it must be a list of messages")
    if row.get("prompt") and row.get("completion"):
        return "prompt", [
            *_side(row["prompt"], "user"),
            *_side(row["completion"], "assistant"),
        ]
    raise TraceError(f"there are no messages, but {sorted(row)}: write [{{role, content}}, …]")


def _side(value: Any, role: str) -> Sequence[Any]:
    """A prompt or a completion, which may be a text alone."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, (list, tuple)):
        raise TraceError(f"a prompt or a completion is {_short(value)}: it must be text, or a list of messages")
    return value


def _messages(raw: Mapping[str, Any], role: str, where: str) -> Iterator[Message]:
    """The messages that one written message is; calls beside its text or in place of it become tags in the text."""
    text, images = _content(raw.get("content", raw.get("value", "")), where)
    calls = raw.get("tool_calls") or ()
    if calls and role != "assistant":
        raise TraceError(f"{where}.tool_calls: only the assistant calls tools")
    if role == "call":
        head, tail = _thought(text)
        calls = () if "<tool_call>" in tail else _loaded(tail, where)
        text = text if "<tool_call>" in tail else head
    written = [call_tag(call, where) for call in (calls if isinstance(calls, (list, tuple)) else [calls])]
    text = "\n".join(part for part in (text, *written) if part)
    yield Message(
        "assistant" if role == "call" else role, _unwrapped(text) if role in ("user", "tool") else text, images
    )


def _thought(text: str) -> tuple[str, str]:
    """What stands before the JSON of a call, and the JSON."""
    place = re.search(r"[\[{]", text.rpartition("</think>")[2])
    start = len(text) - len(text.rpartition("</think>")[2]) + (place.start() if place else 0)
    return text[:start].strip(), text[start:].strip()


def _content(content: Any, where: str) -> tuple[str, list[Any]]:
    """The text of a content and the images that stand in it."""
    if isinstance(content, str):
        return content, []
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, (list, tuple)):
        raise TraceError(f"{where}.content is {_short(content)}: it must be text, or a list of blocks")
    texts, images, num_bare = [], [], 0
    for block in content:
        if isinstance(block, str):
            texts.append(block)
            continue
        block = {k: v for k, v in block.items() if v is not None} if isinstance(block, Mapping) else {}
        if isinstance(block.get("text"), str):
            texts.append(escaped(block["text"]))
        elif block.get("type") == "image_url" or "image" in block or block.get("type") == "image":
            source = block.get("image", block.get("image_url", block.get("path", block.get("url"))))
            source = source.get("url") if isinstance(source, Mapping) and "url" in source else source
            texts.append(PLACEHOLDER)
            images += [source] if source is not None else []
            num_bare += source is None
        else:
            raise TraceError(f"{where}.content holds {_short(block)}: blocks are texts and images")
    if images and num_bare:
        raise TraceError(f"{where}.content names some of its images and leaves others to the row's: name all or none")
    return "".join(texts), images


def _unwrapped(text: str) -> str:
    """What a tool returned, without the tags around it."""
    parts = _WRAPPED.findall(text)
    return "\n".join(part for _, part in parts) if parts and not _WRAPPED.sub("", text).strip() else text


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
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


def _images(row: Mapping[str, Any], messages: Sequence[Message]) -> list[Any]:
    """All images in the order of their placeholders, whether messages or the row hold them."""
    held = row.get("images", row.get("image"))
    held = [] if held is None else list(held) if isinstance(held, (list, tuple)) else [held]
    held = [one["image"] if isinstance(one, Mapping) and one.keys() == {"image"} else one for one in held]
    counts = [len(parts_of(message.text)) - 1 for message in messages]
    inline = [image for message in messages for image in message.images]
    if inline and held:
        raise TraceError(f"messages hold {len(inline)} images and the row {len(held)} more: name each once")
    if held and not any(counts):
        first = next((message for message in messages if message.role == "user"), None)
        if first is None or any("<tool_call>" in message.text for message in messages):
            raise TraceError(
                f"messages hold no {PLACEHOLDER} placeholders for {len(held)} images: say where they stand"
            )
        first.text = PLACEHOLDER * len(held) + first.text
    elif sum(counts) != len(inline or held):
        raise TraceError(f"messages hold {sum(counts)} {PLACEHOLDER} placeholders for {len(inline or held)} images")
    return inline or held


def call_tag(call: Any, where: str) -> str:
    """A call as a `<tool_call>` tag, from the forms of OpenAI, Hermes and ms-swift.

    Raises:
        TraceError: for one without a name, or whose arguments cannot be read.
    """
    call = _loaded(call, where) if isinstance(call, str) else call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise TraceError(f"{where} holds the call {_short(call)}: it must be {{name, arguments}}")
    arguments = function.get("arguments", function.get("parameters", {}))
    arguments = _loaded(arguments, where) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise TraceError(f"{where} holds the arguments {_short(arguments)}: they must be an object")
    given = {name: value for name, value in arguments.items() if value is not None}
    return f"<tool_call>\n{escaped(json.dumps({'name': function['name'], 'arguments': given}))}\n</tool_call>"


def loaded(text: str) -> Any:
    """What a text of JSON says, or of a Python literal, as older data writes it; never evaluated.

    Raises:
        ValueError: for a text that is neither.
    """
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            pass
        raise


def _loaded(text: str, where: str) -> Any:
    try:
        return loaded(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where} holds {_short(text)}, which is no JSON ({error})") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:120]}…"
