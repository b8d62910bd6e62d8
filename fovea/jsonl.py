"""JSONL files that are written line by line, perhaps by a process that was killed, perhaps edited by hand."""

from __future__ import annotations

import fcntl
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; a last line cut off by a killed process is left out, as are empty lines.

    Raises:
        ValueError: for another line that is no JSON, with its number.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")  # other ends of lines, as U+2028, may stand in texts
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path} line {number} is no JSON ({error}): correct or delete it, it begins with {line[:80]!r}"
                ) from None
    return records


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes lines behind what is there, whole, though other processes append to the file too.

    They may run on other machines that share a network file system, where two that append without a lock overwrite
    each other.
    """
    content = "".join(lines)
    with path.open("a", encoding="utf-8") as file, _locked(file):
        file.write(content)
        file.flush()


@contextmanager
def _locked(file: IO[str]) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        warnings.warn(
            f"{file.name} cannot be locked ({error}): lines of processes on other machines may be lost. Mount the file "
            "system with locks, or give output_dir elsewhere",
            stacklevel=4,
        )
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to be written in place of `path`, which stays as it is until all of it is there."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def cut_torn_line(path: Path) -> None:
    """Takes off what a killed process wrote of its last line, so that the next line begins on its own.

    A last line that is whole but for its end, as some editors leave it, is ended.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        try:
            json.loads(content[whole:])
            file.write(b"\n")
        except ValueError:
            file.truncate(whole)
