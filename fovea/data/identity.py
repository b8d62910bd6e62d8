"""Hashes by which questions and pictures are told apart. A run that continues compares them to notice changed data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fovea.images import Source, content_hash, encoded, encoded_hash, image_hash
from fovea.tasks import Task

_EDGE = 4096
"""Bytes at either end of an image's file that are read to tell it from another of the same size."""


def fingerprint(task: Task) -> str:
    """A hash of a task's question, choices, reference, images and the bound on its views; not of where images lie."""
    parts = [task.question, task.kind.value, list(task.choices), task.answer, *map(_told_apart, task.images)]
    return digest(parts if task.first_view_max_pixels is None else [*parts, task.first_view_max_pixels])


def digest(value: Any) -> str:
    """16 hexadecimal digits of what a value is as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def data_named(name: str, hashes: Sequence[str]) -> str:
    """A number of things and their hash, as a run's settings keep it.

    >>> data_named("tasks", ["a", "b"])
    '2 tasks, fb8e20fc2e4c3f24'
    """
    joint_hash = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return f"{len(hashes)} {name}, {joint_hash}"


def records_named(name: str, records: Iterable[dict[str, Any]]) -> str:
    """The same of traces: their messages and images."""
    return data_named(name, [digest([record["messages"], *map(_told_apart, record["images"])]) for record in records])


def _told_apart(source: Any) -> str:
    """Length and ends of an image's file, or its pixels, or its own mark; of a file that cannot be read, that."""
    if (mark := mark_of(source)) is not None:
        return mark
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path") or b""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            return "missing"
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_EDGE)
            file.seek(max(0, size - _EDGE))
            return f"{size} {hashlib.sha256(head + file.read()).hexdigest()}"
    content = encoded(source)
    if isinstance(content, Image.Image):
        return image_hash(content)
    return f"{len(content)} {hashlib.sha256(content[:_EDGE] + content[-_EDGE:]).hexdigest()}"


def mark_of(source: Source) -> str | None:
    """The mark of a source that draws its picture; None of any other."""
    mark = getattr(source, "mark", None)
    return mark if isinstance(mark, str) else None


def source_hash(source: Source) -> str:
    """Content hash of what a source holds, read but not decoded, or of its mark.

    Raises:
        ImageError: if it cannot be read.
    """
    mark = mark_of(source)
    return encoded_hash(encoded(source)) if mark is None else content_hash(mark.encode())
