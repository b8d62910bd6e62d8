"""Traces: episodes as chat messages with images, in the form of Chain-of-Focus's MM-CoF data, written and opened.

A line is `{"messages": [{"role", "content"}, …], "images": [path, …]}` with `<image>` where an image stands. A literal
`<image>` in a text is written `\\<image>`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from environments.protocol import behind_thoughts
from fovea.answers import score
from fovea.episodes import Episode, StopReason
from fovea.images import is_strip, open_image, write_png
from fovea.jsonl import replacing
from fovea.placeholders import PLACEHOLDER, escaped, parts_of


@dataclass(frozen=True)
class Trace:
    """One conversation: messages whose content is text or blocks, images inside the blocks."""

    messages: tuple[dict, ...]


class TraceError(ValueError):
    """A line that is no trace, with its number and the field."""


def unfit(episode: Episode) -> str | None:
    """The reason not to imitate an episode; None if there is none."""
    if episode.stop_reason is not StopReason.ANSWERED:
        return f"ended by {episode.stop_reason.value}"
    if episode.faults:
        return f"fault {episode.faults[0].kind.value}"
    if not all(turn.well_formed for turn in episode.turns):
        return "out of format"
    images = episode.tokens.images if episode.tokens else ()
    if strip := next((image for image in images if is_strip(image.size)), None):
        return f"an image resized to {strip.width}x{strip.height}, too thin to be read again"
    right = score(episode.task, episode.answer or "", episode.framing) > 0.99
    return None if right else "wrong answer"


def write_fit_traces(episodes: Iterable[Episode], folder: Path) -> Counter[str]:
    """Writes traces of the episodes that are fit to be imitated; how many were dropped, by reason.

    No episode is kept: their pictures would fill the memory.
    """
    dropped: Counter[str] = Counter()

    def fit() -> Iterator[Episode]:
        for episode in episodes:
            if (reason := unfit(episode)) is None:
                yield episode
            else:
                dropped[reason] += 1

    write_traces(fit(), folder)
    return dropped


def write_traces(episodes: Iterable[Episode], folder: Path) -> None:
    """Writes `traces.jsonl` and the images as the model saw them below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "traces.jsonl") as file:
        for number, episode in enumerate(episodes):
            if number == 0:  # its images are overwritten from now on
                (folder / "traces.jsonl").unlink(missing_ok=True)
            file.write(json.dumps(trace_record(episode, folder, name=str(number))) + "\n")


def trace_record(episode: Episode, folder: Path, *, name: str) -> dict[str, Any]:
    """The line of an episode; its images are written as `images/NAME-0.png` and so on below `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths: list[str] = []
    messages = []
    for message in episode.messages:
        texts = []
        for block in blocks_of(message["content"]):
            if block["type"] == "text":
                texts.append(escaped(block["text"]))
                continue
            path = f"images/{name}-{len(paths)}.png"
            (folder / path).unlink(missing_ok=True)  # it may be a link to another folder's file
            write_png(block["image"], folder / path)
            paths.append(path)
            texts.append(PLACEHOLDER)
        messages.append({"role": message["role"], "content": "".join(texts)})
    return {"messages": messages, "images": paths, "id": episode.task.id}


def to_trace(record: dict) -> Trace:
    """A record of `read_traces` with its images opened in place of the placeholders.

    What follows a tool call is what the tool returned: crops that stand in a user turn there, as MM-CoF writes them,
    become tool turns, as in rollouts. Images that stand behind the tool's own words, since a tool message of OpenAI's
    holds none, join these. Every other user turn stays one.
    """
    images = iter([open_image(image) for image in record["images"]])
    messages: list[dict] = []
    called = False
    for message in record["messages"]:
        role, parts = message["role"], parts_of(message["content"])
        before = messages[-1]["role"] if called else None
        is_added = role == "user" and before == "tool" and len(parts) > 1
        if is_added or (role == "user" and before == "assistant"):
            role = "tool"
        if role != "tool":
            called = role == "assistant" and "<tool_call>" in behind_thoughts(message["content"])[1]
        blocks: list[dict] = []
        for number, text in enumerate(parts):
            blocks += [{"type": "image", "image": next(images)}] if number else []
            blocks += [{"type": "text", "text": text}] if text else []
        if is_added:
            blocks = [*blocks_of(messages.pop()["content"]), *blocks]
        only_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        messages.append({"role": role, "content": blocks[0]["text"] if only_text else blocks})
    return Trace(tuple(messages))


def blocks_of(content: str | list[dict]) -> list[dict]:
    """The content of a chat message as blocks."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(message: dict) -> str:
    """The text of a chat message, images left out."""
    return "".join(block["text"] for block in blocks_of(message["content"]) if block["type"] == "text")


def images_of(messages: Iterable[dict]) -> list[Image.Image]:
    """The images of chat messages, in order."""
    blocks = (block for message in messages for block in blocks_of(message["content"]))
    return [block["image"] for block in blocks if block["type"] == "image"]


def first_turn(trace: Trace) -> int:
    """The number of the message in which the assistant first speaks."""
    return next(number for number, message in enumerate(trace.messages) if message["role"] == "assistant")
