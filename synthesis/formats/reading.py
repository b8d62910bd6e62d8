"""Anyone's trace file as traces of ours: `FORMATS` names what is read, and a row tells its own format.

A file is JSONL, JSON, Parquet, a saved dataset or a hub id. The messages, calls and answers come out as the environment
reads them; boxes keep their frame and crops their pixels until `synthesis.convert` plays the trace again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from environments.protocol import behind_thoughts
from environments.trace_files import checked, file_of, image_sources
from environments.traces import TraceError
from fovea.data.columns import TaskError
from fovea.data.sources import BROKEN, read_rows
from fovea.data.task_files import BAD_ROW
from fovea.images import ImageError
from synthesis.formats.dialects import Cutting, translated
from synthesis.formats.layouts import Conversation, conversation


@dataclass(frozen=True)
class ForeignTrace:
    """A trace of a file: its record in our form, the format it was written in, and how its boxes are meant."""

    record: dict
    format: str
    cutting: Cutting


FORMATS: dict[str, Callable[[frozenset[str], str], bool]] = {
    "chain_of_focus_v0": lambda layout, text: "<|image_zoomin|>" in text,
    "mini_o3": lambda layout, text: "<grounding>" in text,
    "vigorl": lambda layout, text: '"search_coordinate"' in text,
    "pixel_reasoner": lambda layout, text: "message_list" in layout or '"crop_image' in text,
    "trl": lambda layout, text: bool({"prompt", "tool_calls", "reasoning_content"} & layout),
    "swift": lambda layout, text: bool({"tool_call", "tool_response", "query"} & layout),
    "hermes": lambda layout, text: {"from", "tool"} <= layout,
    "sharegpt": lambda layout, text: bool({"from", "function_call", "observation", "conversations"} & layout),
    "fovea": lambda layout, text: True,
}
"""The formats by name, the most particular first: a row is in the first that it has the marks of."""
OWN = "fovea"
"""The format that SFT reads."""
NUM_TOLD = 200
"""Rows by which it is told how a file writes answers."""


def has_answer_tags(rows: Iterable[Any]) -> bool:
    """Returns True if the last turns of these rows put answers in tags or boxes; else the whole turn is the answer."""
    last_turns = []
    for row in rows:
        with suppress(TraceError, *BAD_ROW):
            last_turns += [message.text for message in conversation(row).messages if message.role == "assistant"][-1:]
    tagged = [text for text in last_turns if re.search(r"<answer>|\\boxed\{", behind_thoughts(text)[1])]
    return 2 * len(tagged) >= len(last_turns)


def _assistant_text(read: Conversation) -> str:
    return "\n".join(message.text for message in read.messages if message.role == "assistant")


def read_trace(
    row: Any, folder: Path, *, zoom_tools: Sequence[str] = (), plain: bool = False, as_written: bool = False
) -> ForeignTrace:
    """One row as a trace; `plain` takes a last turn without a tag for the answer.

    With `as_written` a row in our own form is read as SFT reads it.

    Raises:
        TraceError: for a row that is none, or whose images are not there.
    """
    if not isinstance(row, Mapping):
        raise TraceError(f"it is a {type(row).__name__}: it must be an object with messages and images")
    if BROKEN in row:
        raise TraceError(row[BROKEN])
    read = conversation(row)
    "".join(message.text for message in read.messages).encode()  # half a surrogate pair is no text
    name = next(name for name, has_marks in FORMATS.items() if has_marks(read.layout, _assistant_text(read)))
    if name == OWN and as_written:
        return ForeignTrace(checked(row, folder), name, Cutting())
    sources = image_sources([_without_scheme(image) for image in read.images], folder)
    try:
        messages, cutting = translated(read.messages, sources, plain=plain, zoom_tools=zoom_tools)
    except ImageError as error:
        raise TraceError(str(error)) from None
    written = [{"role": message.role, "content": message.text} for message in messages]
    record = {"messages": written, "images": sources, "id": row.get("id", row.get("qid"))}
    return ForeignTrace(checked(record, Path()), name, cutting)


def _without_scheme(image: Any) -> Any:
    return image.removeprefix("file://") if isinstance(image, str) else image


def numbered_foreign_traces(
    source: str | Path,
    *,
    zoom_tools: Sequence[str] = (),
    split: str | None = None,
    image_dir: str | Path | None = None,
    as_written: bool = False,
) -> Iterator[tuple[int, ForeignTrace | TraceError]]:
    """The traces of a file, a folder with traces.jsonl, a saved dataset or a hub id, numbered from 1.

    In place of a row that is no trace stands what is wrong with it.

    Raises:
        FileNotFoundError: where there is no such file.
        TraceError: for a source that cannot be read at all.
    """
    path = file_of(source)
    number = 0
    try:
        folder, rows = read_rows(path if path.exists() else source, split=split)
        folder = Path(image_dir) if image_dir else folder
        first = list(islice(rows, NUM_TOLD))
        plain = not has_answer_tags(first)
        for number, row in enumerate(chain(first, rows), start=1):
            try:
                yield number, read_trace(row, folder, zoom_tools=zoom_tools, plain=plain, as_written=as_written)
            except TraceError as error:
                yield number, error
            except BAD_ROW as error:
                yield number, TraceError(f"it cannot be read: {error!r}")
    except TaskError as error:
        raise TraceError(f"behind row {number}: {error}" if number else str(error)) from None
