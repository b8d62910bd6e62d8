"""Selection of a mixture's rows: drops duplicates, benchmark pictures, and pictures that look alike."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from environments.trace_files import checked, image_sources
from environments.traces import TraceError
from fovea.data.task_files import BAD_ROW
from fovea.images import ImageError, image_hash, open_image
from fovea.placeholders import parts_of
from synthesis.duplicates import HashTable, perceptual_hash

NAMES = {"messages": "traces.jsonl", "question": "tasks.jsonl"}
"""The file of a kind of rows, by the column that tells it."""


class RowPlace(NamedTuple):
    """The place of a row, and the pictures that it shows."""

    source: int
    offset: int
    """The byte at which its line begins."""
    pictures: tuple[int, ...]
    """Their numbers in `Sieve.looks`."""


@dataclass
class Source:
    """A file of traces or tasks, and where the rows of it stand that are kept."""

    path: Path
    name: str | None = None
    """traces.jsonl or tasks.jsonl, by what its rows are."""
    kept: list[RowPlace] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, name: str) -> Source:
        """The source of a folder or a file.

        Raises:
            FileNotFoundError: where there is none.
        """
        path = Path(name)
        found = [path / one for one in NAMES.values() if (path / one).is_file()] if path.is_dir() else [path]
        if not found or not found[0].is_file() or found[0].suffix != ".jsonl":
            raise FileNotFoundError(
                f"no traces.jsonl or tasks.jsonl at {name}: `fovea data convert` writes one of other formats"
            )
        return cls(found[0])

    def rows(self) -> Iterator[tuple[int, dict]]:
        """The rows with the bytes at which their lines begin.

        Raises:
            TraceError: for a line that is no row, or of another kind than those before.
        """
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield offset, self._row(line, number)
                offset += len(line)

    def _row(self, line: bytes, number: int) -> dict:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TraceError(f"{self.path} line {number}: not JSON: {error}") from None
        kind = next((name for name in NAMES if isinstance(row, dict) and name in row), None)
        if kind is None or self.name not in (None, NAMES[kind]):
            raise TraceError(
                f"{self.path} line {number}: it is no row of {self.name or 'traces or tasks'}: give one kind of rows "
                "in each file"
            )
        self.name = NAMES[kind]
        return row


def row_images(row: Mapping[str, Any]) -> list[Any]:
    """The images of a row, in `images` or `image`."""
    images = row.get("images") if row.get("images") is not None else row.get("image")
    return list(images) if isinstance(images, (list, tuple)) else [] if images is None else [images]


def pictures_of(row: Mapping[str, Any], folder: Path) -> list[Any]:
    """Sources of the pictures that a row asks about. The crops of a trace must exist as well.

    Raises:
        TraceError: for a trace that is none, or an image that is not there.
    """
    if "messages" not in row:
        return image_sources(row_images(row), folder)
    record = checked(row, folder)
    before = takewhile(lambda message: message["role"] != "assistant", record["messages"])
    return record["images"][: sum(len(parts_of(message["content"])) - 1 for message in before)]


def words_of(row: Mapping[str, Any]) -> str:
    """The text that tells rows on the same pictures apart: all turns of a trace, or a task's question and view."""
    names = ("question", "choices", "first_view_max_pixels")
    if "messages" in row:
        return json.dumps([message["content"] for message in row["messages"]])
    return json.dumps([row.get(name) for name in names])


@dataclass
class Sieve:
    """Decides which rows are kept. Of each picture it keeps a hash, of each row another."""

    forbidden: HashTable
    per_image: int | None
    looks: HashTable = field(default_factory=HashTable)
    """The pictures of the rows, with their groups: pictures that look alike, or like another one of the group."""
    _groups: list[int] = field(default_factory=list)
    _known: set[bytes] = field(default_factory=set)
    _of_picture: Counter[str] = field(default_factory=Counter)

    def judge(self, source: Source, number: int, offset: int, row: Mapping[str, Any]) -> None:
        """Keeps a row, or counts why it is dropped."""
        try:
            pictures = list(map(open_image, pictures_of(row, source.path.parent)))
            words = words_of(row)
        except (TraceError, *BAD_ROW) as error:
            is_picture = isinstance(error, ImageError) or "image" in str(error)
            source.dropped["pictures that cannot be opened" if is_picture else "rows that cannot be read"] += 1
            return
        hashes = list(map(perceptual_hash, pictures))
        contents = set(map(image_hash, pictures))
        key = hashlib.sha256("\n".join([*map(image_hash, pictures), words]).encode("utf-8", "replace")).digest()
        most_rows = max((self._of_picture[content] for content in contents), default=0)
        if any(next(self.forbidden.owners_of(one), None) is not None for one in hashes):
            source.dropped["pictures of --against"] += 1
        elif key in self._known:
            source.dropped["duplicates"] += 1
        elif pictures and self.per_image is not None and most_rows >= self.per_image:
            source.dropped["beyond --per_image"] += 1
        else:
            self._known.add(key)
            self._of_picture.update(contents)
            source.kept.append(RowPlace(number, offset, tuple(map(self._picture, hashes))))

    def _picture(self, picture_hash: np.ndarray) -> int:
        """The number of a picture; it joins the groups of all that look like it."""
        near = sorted({self.group_of(owner) for owner in self.looks.owners_of(picture_hash)})
        number = len(self._groups)
        self._groups.append(near[0] if near else number)
        for other in near[1:]:
            self._groups[other] = near[0]
        self.looks.add(picture_hash, number)
        return number

    def group_of(self, picture: int) -> int:
        """The first picture of the group of a picture."""
        while self._groups[picture] != picture:
            self._groups[picture] = picture = self._groups[self._groups[picture]]
        return picture

    def is_held_out(self, picture: int, share: float, seed: int) -> bool:
        """Returns True if a picture is held out. The seed and the hash of the first picture of its group decide."""
        first = self.looks.hash_of(self.group_of(picture))
        digest = hashlib.sha256(f"{seed} {first.tobytes().hex()}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < share
