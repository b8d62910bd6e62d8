"""The columns of a row that make a task: their names, their types, and where they stand in files of others."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

COLUMNS = ("id", "images", "question", "answer", "kind", "choices", "boxes", "first_view_max_pixels", "metadata")


MAX_CHARACTERS = 100_000
"""A longer question is taken for a mistake."""


class TaskError(ValueError):
    """A row that is no task, with its number and the reason."""


def value_of(row: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> Any:
    """A field of the row under its mapped, perhaps dotted name; None if absent."""
    value = _under(row, columns.get(name, name))
    return None if value is _ABSENT else value


_ABSENT = object()


def _under(row: Any, column: str) -> Any:
    """What stands under a perhaps dotted name; `_ABSENT` if nothing does."""
    for part in column.split("."):
        if not isinstance(row, Mapping) or part not in row:
            return _ABSENT
        row = row[part]
    return row


FIRST_ROWS = 100
"""Rows among which a renamed column must occur."""


def with_columns(rows: Iterable[Any], columns: Mapping[str, str]) -> Iterator[Any]:
    """The rows themselves. Any of them may leave a renamed column out.

    Raises:
        TaskError: if none of the first rows has it, for then its name is wrong.
    """
    rows, first = iter(rows), list[Any]()
    missing = dict(columns)
    for row in islice(rows, FIRST_ROWS if missing else 0):
        first.append(row)
        missing = {name: column for name, column in missing.items() if _under(row, column) is _ABSENT}
        if not missing:
            break
    there = sorted({key for row in first if isinstance(row, Mapping) for key in row})
    if missing and there:
        name, column = next(iter(missing.items()))
        raise TaskError(f"no column {column!r} for {name} in the first rows: name one of theirs, {', '.join(there)}")
    yield from first
    yield from rows


def is_missing(value: Any) -> bool:
    """Returns True for an empty cell: None, or the not-a-number of pandas."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_required(fields: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Raises TaskError for a row without a question or an answer, with the columns that it has."""
    for name in ("question", "answer"):
        if fields[name] is None and name in row:
            raise TaskError(f"{name} is empty: fill it in, or name another column with --columns {name}=…")
        if fields[name] is None:
            raise TaskError(
                f"{name} is missing: name its column with --columns {name}=…, one of {', '.join(sorted(row))}"
            )


def check_types(fields: Mapping[str, Any]) -> None:
    """Raises TaskError for a column that holds something else than it must."""
    if not isinstance(fields["question"], str) or not fields["question"].strip():
        raise TaskError(f"question is {fields['question']!r}: it must be text")
    if len(fields["question"]) > MAX_CHARACTERS:
        raise TaskError(
            f"question has {len(fields['question'])} characters, the bound is {MAX_CHARACTERS}: shorten it, or leave "
            "the row out"
        )
    if isinstance(fields["choices"], (str, Mapping)):
        raise TaskError(f"choices is {fields['choices']!r}: it must be a list of texts (or name it in --json_columns)")
    if not isinstance(fields["metadata"] or {}, Mapping):
        raise TaskError(f"metadata is {fields['metadata']!r}: it must be an object (or name it in --json_columns)")
    max_pixels = fields["first_view_max_pixels"]
    if max_pixels is not None and (
        isinstance(max_pixels, bool) or not isinstance(max_pixels, (int, float)) or not max_pixels >= 1
    ):
        raise TaskError(f"first_view_max_pixels is {max_pixels!r}: it must be a number of pixels, 1 or more")
    if not isinstance(fields["boxes"] or [], (list, tuple)):
        raise TaskError(f"boxes is {fields['boxes']!r}: it must be a list of boxes")


def from_json(name: str, value: Any) -> Any:
    """The value of a text in a JSON column. None and an empty text stay None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise TaskError(
            f"{name} is {value[:80]!r}, which is no JSON ({error}): correct it, or take {name} out of --json_columns "
            "(in CSV and TSV files, lists and objects are recognised without it)"
        ) from None


def from_cell(value: Any) -> Any:
    """The list or object that a text holds, as JSON or as Python writes it; any other value unchanged.

    >>> from_cell("[1, 2]"), from_cell("['cup', 'hat']"), from_cell("[sic]")
    ([1, 2], ['cup', 'hat'], '[sic]')
    """
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(value.strip())
            if isinstance(found, (list, dict)):
                return found
    return value


def read_cells(fields: Mapping[str, Any], *, from_table: bool) -> dict[str, Any]:
    """The fields with what texts say in columns that hold lists and objects. In a table of texts answers are read too.

    Raises:
        TaskError: elsewhere, for an answer that is the text of a list or an object, and of no named kind.
    """
    read = {name: from_cell(fields[name]) for name in ("choices", "boxes", "metadata")}
    if from_table:
        read["images"] = from_cell(fields["images"])
    if fields["kind"] in (None, "list", "box") or (from_table and fields["kind"] == "text"):
        read["answer"] = from_cell(fields["answer"])
        if fields["kind"] is None and not from_table and read["answer"] is not fields["answer"]:
            raise TaskError(
                f"answer is {fields['answer'][:80]!r}, the text of a list or an object: if it is one, name the column "
                "in --json_columns, and if it is meant as it stands, say the kind (text, math, …)"
            )
    return {**fields, **read}


def without_images(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    image_columns = {"images", "image", columns.get("images", "images").split(".")[0]}
    return {name: value for name, value in row.items() if name not in image_columns}


def known_columns(names: Sequence[str] | None) -> list[str]:
    """The names themselves.

    Raises:
        ValueError: for one that is no column of ours.
    """
    for name in names or ():
        if name not in COLUMNS:
            raise ValueError(f"--json_columns {name!r} is no column of Fovea: use some of {', '.join(COLUMNS)}")
    return list(names or ())


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """`["question=problem"]` as `{"question": "problem"}`.

    Raises:
        ValueError: for a pair without `=` or a name that is not ours.
    """
    columns = {}
    for pair in pairs or []:
        name, sign, column = pair.partition("=")
        if not sign or name not in COLUMNS:
            raise ValueError(f"--columns {pair!r}: write Fovea's name=your column; Fovea's are {', '.join(COLUMNS)}")
        columns[name] = column
    return columns
