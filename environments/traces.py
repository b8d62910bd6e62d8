"""Traces: episodes as chat messages with images, in the form of Chain-of-Focus's MM-CoF data, written and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fovea.episodes import Episode
from fovea.images import open_image

PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Trace:
    """One conversation: messages whose content is text or blocks, images inside the blocks."""

    messages: tuple[dict, ...]


def write_traces(episodes: Iterable[Episode], folder: Path) -> None:
    """Writes `traces.jsonl` and the images as the model saw them below `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "traces.jsonl").open("w") as file:
        for number, episode in enumerate(episodes):
            paths: list[str] = []
            messages = []
            for message in episode.messages:
                texts = []
                for block in blocks_of(message["content"]):
                    if block["type"] == "text":
                        texts.append(block["text"])
                        continue
                    path = f"images/{number}-{len(paths)}.png"
                    block["image"].save(folder / path)
                    paths.append(path)
                    texts.append(PLACEHOLDER)
                messages.append({"role": message["role"], "content": "".join(texts)})
            file.write(json.dumps({"messages": messages, "images": paths, "id": episode.task.id}) + "\n")


def read_traces(path: str | Path) -> Iterator[dict]:
    """The records of a traces file (or of the folder that holds one), image paths made absolute.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a record whose placeholders and images differ in number, with its line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "traces.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"no traces at {path}: give a JSONL file of traces or a folder with traces.jsonl in it")
    with path.open() as file:
        for number, line in enumerate(file, start=1):
            record = json.loads(line)
            images = [str(path.parent / image) for image in record.get("images", [])]
            found = sum(message["content"].count(PLACEHOLDER) for message in record["messages"])
            if found != len(images):
                raise ValueError(
                    f"{path} line {number} has {found} {PLACEHOLDER} placeholders for {len(images)} images"
                )
            yield {"messages": record["messages"], "images": images}


def to_trace(record: dict) -> Trace:
    """A record of `read_traces` with its images opened in place of the placeholders.

    Crops that stand in user turns after a tool call (as MM-CoF writes them) become tool turns, as in rollouts.
    """
    images = iter([open_image(image) for image in record["images"]])
    messages: list[dict] = []
    for message in record["messages"]:
        role = message["role"]
        if role == "user" and messages and "<tool_call>" in str(messages[-1]["content"]):
            role = "tool"
        messages.append({"role": role, "content": _with_images(message["content"], images)})
    return Trace(tuple(messages))


def _with_images(content: str, images: Iterator[Image.Image]) -> str | list[dict]:
    parts = content.split(PLACEHOLDER)
    if len(parts) == 1:
        return content
    blocks: list[dict] = [{"type": "text", "text": parts[0]}] if parts[0] else []
    for part in parts[1:]:
        blocks.append({"type": "image", "image": next(images)})
        if part:
            blocks.append({"type": "text", "text": part})
    return blocks


def blocks_of(content: str | list[dict]) -> list[dict]:
    """The content of a chat message as blocks."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
