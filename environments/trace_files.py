"""Files of traces: their records, checked where they enter.

The form is that of `environments.traces`; blocks, `tool_calls` beside the text and JSON lists are taken too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from environments.trace_calls import CallError, call_tag
from environments.traces import TraceError
from fovea.data.columns import TaskError
from fovea.data.pictures import image_source
from fovea.data.sources import BROKEN, READERS
from fovea.images import ImageError
from fovea.placeholders import PLACEHOLDER, escaped, parts_of

ROLES = ("system", "user", "assistant", "tool")


def read_traces(path: str | Path) -> Iterator[dict]:
    """The records of a traces file (or of the folder that holds one): messages of text, image paths made absolute.

    Takes a line an object or a JSON list of them. Blocks become text with placeholders, `tool_calls` of an assistant
    `<tool_call>` tags in its text.

    Raises:
        FileNotFoundError: where there is no such file.
        TraceError: for a record that is no trace, with its line and the field.
    """
    for number, record in numbered_traces(path):
        if isinstance(record, TraceError):
            raise TraceError(f"{file_of(path)} line {number}: {record}") from None
        yield {"messages": record["messages"], "images": record["images"]}


def file_of(path: str | Path) -> Path:
    """The file of traces that a path names, in a folder its traces.jsonl."""
    return Path(path) / "traces.jsonl" if Path(path).is_dir() else Path(path)


def numbered_traces(path: str | Path) -> Iterator[tuple[int, dict | TraceError]]:
    """The records of a traces file with their line numbers; in place of one that is no trace, what is wrong with it.

    `num_trailing` of a record counts the turns behind the assistant's last, which are left out.

    Raises:
        FileNotFoundError: where there is no such file.
        TraceError: for a file that cannot be read at all.
    """
    path = file_of(path)
    if not path.exists():
        raise FileNotFoundError(f"no traces at {path}: give a JSONL file of traces or a folder with traces.jsonl in it")
    if path.suffix not in (".jsonl", ".json"):
        raise TraceError(f"{path}: traces are read from .jsonl and .json files")
    number = 0
    try:
        for number, row in enumerate(READERS[path.suffix](path), start=1):
            try:
                yield number, checked(row, path.parent)
            except TraceError as error:
                yield number, error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} behind line {number}: it is not UTF-8 ({error.reason}): save it as UTF-8") from None


def checked(row: Any, folder: Path) -> dict:
    """A record whose messages are texts, of roles that follow each other as in a conversation.

    Raises:
        TraceError: for a row that is none; `folder` is where relative paths of images start.
    """
    if not isinstance(row, Mapping):
        raise TraceError(f"it is a {type(row).__name__}: it must be an object with messages and images")
    if BROKEN in row:
        raise TraceError(row[BROKEN])
    if "messages" not in row:
        raise without_messages(row, "; `fovea data convert` reads the formats of other projects")
    images = image_sources(row.get("images"), folder)
    if not isinstance(row["messages"], (list, tuple)) or not row["messages"]:
        raise TraceError(f"messages is {row['messages']!r}: it must be a list of {{role, content}}")
    messages = [_message(message, number) for number, message in enumerate(row["messages"])]
    _check_order([message["role"] for message in messages])
    counts = [len(parts_of(message["content"])) - 1 for message in messages]
    for number, (message, count) in enumerate(zip(messages, counts, strict=True)):
        if count and message["role"] == "assistant":
            raise TraceError(
                f"messages[{number}].content holds {PLACEHOLDER}, and the assistant shows no images: where the text "
                f"itself is meant write \\{PLACEHOLDER}"
            )
    if sum(counts) != len(images):
        raise TraceError(
            f"messages hold {sum(counts)} {PLACEHOLDER} placeholders for {len(images)} images: write one for each"
        )
    last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    kept = {"messages": messages[: last + 1], "images": images[: sum(counts[: last + 1])]}
    return {**kept, "num_trailing": len(messages) - last - 1, "id": row.get("id")}


def without_messages(row: Mapping[str, Any], cure: str = "") -> TraceError:
    """The error for a row without a conversation."""
    if {"question", "answer"} <= row.keys():
        return TraceError(
            "it is a task, with a question and an answer. `fovea traces` makes traces of tasks. `fovea data tasks` "
            "checks a file of them"
        )
    return TraceError(f"there are no messages, but {sorted(row)}: write [{{role, content}}, …]{cure}")


def image_sources(images: Any, folder: Path) -> list[Any]:
    """The sources of a record's images, which `open_image` takes.

    Raises:
        TraceError: for one that is not there, or no image.
    """
    images = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
    if any(not (isinstance(image, (str, bytes, Mapping, Image.Image)) or hasattr(image, "read")) for image in images):
        raise TraceError(f"images is {images!r:.200}: it must be a list of paths, bytes, or images in base64")
    try:
        return [image_source(image, folder) for image in images]
    except (TaskError, ImageError) as error:
        raise TraceError(str(error)) from None


def _message(message: Any, number: int) -> dict[str, str]:
    """The message with its content as text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TraceError(f"messages[{number}] is {message!r}: it must be an object with role and content")
    if message["role"] not in ROLES:
        raise TraceError(f"messages[{number}].role is {message['role']!r}: use one of {', '.join(ROLES)}")
    if message.get("reasoning_content"):
        raise TraceError(
            f"messages[{number}].reasoning_content is not read. Write the thoughts as <think>…</think> into content, "
            "or turn the file with `fovea data convert`"
        )
    text = _text(message.get("content"), number, may_be_empty=bool(message.get("tool_calls")))
    if calls := message.get("tool_calls"):
        if message["role"] != "assistant":
            raise TraceError(f"messages[{number}].tool_calls: only the assistant calls tools")
        try:
            tags = [call_tag(call) for call in (calls if isinstance(calls, (list, tuple)) else [calls])]
        except CallError as error:
            raise TraceError(f"messages[{number}].tool_calls: {error}") from None
        text = "\n".join(part for part in (text, *tags) if part)
    return {"role": message["role"], "content": text}


def _text(content: Any, number: int, *, may_be_empty: bool) -> str:
    if content is None and may_be_empty:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise TraceError(f"messages[{number}].content is {content!r}: it must be text, or a list of blocks")
    texts = []
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(escaped(block["text"]))
        elif kind == "image" and not block.get("image"):
            texts.append(PLACEHOLDER)
        else:
            raise TraceError(
                f'messages[{number}].content holds {block!r}: blocks are {{"type": "text", "text": …}}, and '
                '{"type": "image"} for the next of images'
            )
    return "".join(texts)


def _check_order(roles: Sequence[str]) -> None:
    """Raises TraceError for a conversation that cannot have happened so."""
    talk = [(number, role) for number, role in enumerate(roles) if role != "system"]
    if any(role == "system" for role in roles[1:]):
        raise TraceError("a system message stands behind others: only the first may be one")
    if not any(role == "assistant" for _, role in talk):
        raise TraceError("it has no assistant turn, so that nothing can be learned from it: leave it out")
    if talk[0][1] != "user":
        raise TraceError(f"messages[{talk[0][0]}] is the {talk[0][1]}'s: the user speaks first")
    for (_, before), (number, role) in pairwise(talk):
        if before == role == "assistant":
            raise TraceError(f"messages[{number}]: the assistant speaks twice in a row: join the two turns")
        if role == "tool" and before == "user":
            raise TraceError(
                f"messages[{number}]: a tool answers the user, who called none: put it behind a call of the assistant"
            )
