"""Tasks read from the files that people already have, and written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fovea.data.columns import (
    COLUMNS,
    TaskError,
    check_required,
    check_types,
    from_json,
    is_missing,
    read_cells,
    value_of,
    with_columns,
    without_images,
)
from fovea.data.pictures import image_source
from fovea.data.references import checked, kind_of, target_of
from fovea.data.sources import BROKEN, Row, read_rows
from fovea.images import encoded, write_png
from fovea.jsonl import replacing
from fovea.placeholders import MARK, PLACEHOLDER, escaped, marked, refuse_placeholders, unescaped
from fovea.tasks import Task

BAD_ROW = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""Errors that reading a row raises if the row is no task."""


def load_tasks(
    source: str | Path,
    *,
    split: str | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    json_columns: Sequence[str] = (),
    skip_bad_rows: bool = False,
    problems: list[str] | None = None,
    limit: int | None = None,
) -> list[Task]:
    """Tasks from a JSONL or Parquet file, a folder with `tasks.jsonl`, a saved dataset folder, or a hub id.

    `columns` maps our names to those of the file, dotted where they are nested: `{"answer":
    "reward_model.ground_truth"}`. `json_columns` are those of our names whose texts hold JSON, as Arrow files need it
    where rows differ in type. Boxes without a frame are in pixels of the original image; in a task they are in UNIT.
    Given `problems`, what is wrong with bad rows goes there.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows` or `problems`.
        FileNotFoundError: if nothing is at `source`.
    """
    folder, rows = read_rows(source, split=split, config=config)
    return to_tasks(
        rows,
        source=str(source),
        folder=folder,
        columns=columns,
        json_columns=json_columns,
        skip_bad_rows=skip_bad_rows,
        problems=problems,
        limit=limit,
    )


def to_tasks(
    rows: Iterable[Row],
    *,
    source: str,
    folder: Path,
    columns: Mapping[str, str] | None = None,
    json_columns: Sequence[str] = (),
    skip_bad_rows: bool = False,
    problems: list[str] | None = None,
    limit: int | None = None,
) -> list[Task]:
    """Tasks of rows that were read from `source`, their image paths relative to `folder`.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows` or `problems`; for a column
            that no row has.
    """
    tasks: list[Task] = []
    skipped: list[str] = [] if problems is None else problems
    row_numbers: dict[str, int] = {}
    for number, row in enumerate(with_columns(rows, columns or {})):
        if limit is not None and len(tasks) >= limit:
            break
        try:
            task = _task(row, number, folder, columns or {}, json_columns, source)
            if row_numbers.setdefault(task.id, number) != number:
                raise TaskError(
                    f"id {task.id!r} is that of row {row_numbers[task.id]} already: give each task its own id"
                )
            tasks.append(task)
        except BAD_ROW as error:
            problem = f"row {number} of {source}: {error}"
            if not skip_bad_rows and problems is None:
                raise TaskError(f"{problem} (rows count from 0; --skip_bad_rows true goes on without it)") from error
            skipped.append(problem)
    if skipped and problems is None:
        print(f"{len(skipped)} bad rows skipped, the first: {skipped[0]}")
    for name, unread in overlooked(tasks, columns or {}):
        print(f"column {unread!r} of {source} is not read: if it holds {name}, say --columns {name}={unread}")
    return tasks


def overlooked(tasks: Sequence[Task], columns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Optional columns that some rows lack, each with one there that nobody reads and whose name is much like it."""
    kinds_of_rows = {
        frozenset(name for name, value in (*task.columns.items(), ("images", task.images or None)) if value is not None)
        for task in tasks
    }
    found: dict[tuple[str, str], None] = {}
    for there in sorted(kinds_of_rows, key=sorted):
        unread = {name.lower(): name for name in there - {*COLUMNS, *(path.split(".")[0] for path in columns.values())}}
        for name in ("images", "boxes", "choices", "metadata"):
            if name not in there and name not in columns:
                words = [name, name.removesuffix("s"), *_ALIKE.get(name, ())]
                near = [column for word in words for column in get_close_matches(word, unread, n=1, cutoff=0.7)]
                found |= dict.fromkeys((name, unread[column]) for column in near[:1])
    yield from found


_ALIKE = {
    "images": ("image_path", "img", "picture", "photo"),
    "boxes": ("bbox", "bounding_boxes"),
    "choices": ("options",),
}
"""Other names that files give to columns."""


def save_tasks(tasks: Iterable[Task], folder: Path) -> None:
    """Writes `tasks.jsonl` and the images that are not already files below `folder`.

    A file of before stays as it is until all tasks are written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with replacing(folder / "tasks.jsonl") as file:
        for task in tasks:
            paths = [_image_path(image, folder, f"{task.id}-{index}") for index, image in enumerate(task.images)]
            record = {
                "id": task.id,
                "images": paths,
                "question": escaped(task.question).replace(MARK, PLACEHOLDER),
                "answer": _each_text(escaped, task.answer),
                "kind": task.kind.value,
                "choices": list(map(escaped, task.choices)),
                "boxes": [target.to_dict() for target in task.boxes],
                "first_view_max_pixels": task.first_view_max_pixels,
                "metadata": dict(task.metadata),
            }
            file.write(json.dumps(record) + "\n")


def _each_text(change: Callable[[str], str], answer: Any) -> Any:
    """The answer with every text in it changed, in lists of lists too."""
    if isinstance(answer, (list, tuple)):
        return [_each_text(change, item) for item in answer]
    return change(answer) if isinstance(answer, str) else answer


def _image_path(image: Any, folder: Path, name: str) -> str:
    if isinstance(image, (str, Path)):
        path = Path(image)
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())
    content = encoded(image)
    path = folder / "images" / f"{file_name(name)}.{'img' if isinstance(content, bytes) else 'png'}"
    path.unlink(missing_ok=True)  # it may be a link to another folder's file
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_png(content, path)
    return str(path.relative_to(folder))


def file_name(name: str) -> str:
    """A name that a file can have; "a/b" and "a_b" are two tasks, so their images are two files.

    >>> file_name("a-1"), file_name("a/1")
    ('a-1', 'a_1-773232ab')
    """
    safe_name = re.sub(r"[^\w.-]", "_", name)
    return safe_name if safe_name == name else f"{safe_name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _lettered(row: Mapping[str, Any]) -> list[Any] | None:
    """The options in columns A, B, C, …, as the files of VLMEvalKit have them; None without A and B."""
    filled = takewhile(lambda letter: row.get(letter) is not None, ascii_uppercase)
    options = [row[letter] for letter in filled]
    return options if len(options) > 1 else None


def plain_choices(choices: Any) -> list[Any]:
    """The options of a row; missing ones at the end, with which tables fill up, fall away.

    Raises:
        TaskError: for one that is no text or number.
    """
    found = list(choices or ())
    while found and is_missing(found[-1]):
        found.pop()
    for place, choice in enumerate(found):
        if isinstance(choice, (Mapping, list, tuple, bytes)) or is_missing(choice):
            raise TaskError(f"choice {ascii_uppercase[place % 26]} is {choice!r}: choices are texts or numbers")
    return found


def _boxes(boxes: Sequence[Any]) -> Sequence[Any]:
    """A list of boxes; four numbers alone are one box."""
    is_one = len(boxes) == 4 and all(isinstance(value, (int, float)) for value in boxes)
    return [boxes] if is_one else boxes


def _task(
    row: Mapping[str, Any],
    number: int,
    folder: Path,
    columns: Mapping[str, str],
    json_columns: Sequence[str],
    source: str,
) -> Task:
    if not isinstance(row, Mapping):
        raise TaskError(f"it is a {type(row).__name__}: a row must be an object with the columns question and answer")
    if BROKEN in row:
        raise TaskError(row[BROKEN])
    fields = {name: None if is_missing(value := value_of(row, name, columns)) else value for name in COLUMNS}
    fields |= {name: from_json(name, fields[name]) for name in json_columns}
    if fields["choices"] is None:
        fields["choices"] = _lettered(row)
    fields = read_cells(fields, from_table=Path(source).suffix in (".csv", ".tsv"))
    if fields["question"] is None and {"messages", "conversations"} & row.keys():
        raise TaskError("it is a conversation, which is a trace for SFT: a task needs the columns question and answer")
    check_required(fields, row)
    check_types(fields)
    images = fields["images"] if fields["images"] is not None else value_of(row, "image", columns)
    images = [] if is_missing(images) else images if isinstance(images, (list, tuple)) else [images]
    max_pixels = fields["first_view_max_pixels"]
    choices = tuple(map(str, plain_choices(fields["choices"])))
    for column, text in (*(("choice", choice) for choice in choices), ("answer", str(fields["answer"]))):
        refuse_placeholders(text, column)
    choices, fields["answer"] = tuple(map(unescaped, choices)), _each_text(unescaped, fields["answer"])
    task = Task(
        id=str(fields["id"] if fields["id"] is not None else number),
        images=tuple(image_source(image, folder) for image in images),
        question=marked(fields["question"], len(images)),
        answer=fields["answer"],
        kind=kind_of(fields["kind"], fields["answer"], choices, has_image=bool(images)),
        choices=choices,
        boxes=tuple(map(target_of, _boxes(fields["boxes"] or ()))),
        first_view_max_pixels=None if max_pixels is None else int(max_pixels),
        source=source,
        metadata=fields["metadata"] or {},
        columns=without_images(row, columns),
    )
    return checked(task)


def tasks_from(name: str, **options: Any) -> list[Task]:
    """Tasks by name: a function `package.module:name` or `./file.py:name` that returns them, else `load_tasks`."""
    if ":" in name and not Path(name).exists():
        from fovea.plugins import load_object

        tasks, limit = list(load_object(name)()), options.get("limit")
        repeated_ids = [id for id, count in Counter(task.id for task in tasks).items() if count > 1]
        if repeated_ids:
            raise TaskError(f"{name} gives {repeated_ids[0]!r} as the id of several tasks: give each its own id")
        return [checked(task) for task in (tasks[:limit] if limit else tasks)]
    return load_tasks(name, **options)
