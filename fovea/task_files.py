"""Tasks read from the files that people already have, and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fovea.boxes import Box, Frame
from fovea.images import encoded
from fovea.rows import BROKEN, Row, read_rows
from fovea.tasks import AnswerKind, Target, Task

COLUMNS = ("id", "images", "question", "answer", "kind", "choices", "boxes", "first_view_max_pixels", "metadata")


MAX_CHARACTERS = 100_000
"""A longer question is taken for a mistake."""


class TaskError(ValueError):
    """A row that is no task, with its number and what is wrong."""


BAD_ROW = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""What reading a row raises if it is no task."""


def load_tasks(
    source: str | Path,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    box_frame: Frame = Frame.ORIGINAL,
    skip_bad_rows: bool = False,
    limit: int | None = None,
) -> list[Task]:
    """Tasks from a JSONL or Parquet file, a folder with `tasks.jsonl`, a saved dataset folder, or a hub id.

    `columns` maps our names to those of the file, dotted where they are nested: `{"answer":
    "reward_model.ground_truth"}`. Boxes without a frame of their own are read in `box_frame`.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows`.
        FileNotFoundError: if nothing is at `source`.
    """
    folder, rows = read_rows(source, split=split)
    return to_tasks(
        rows,
        source=str(source),
        folder=folder,
        columns=columns,
        box_frame=box_frame,
        skip_bad_rows=skip_bad_rows,
        limit=limit,
    )


def to_tasks(
    rows: Iterable[Row],
    *,
    source: str,
    folder: Path,
    columns: Mapping[str, str] | None = None,
    box_frame: Frame = Frame.ORIGINAL,
    skip_bad_rows: bool = False,
    limit: int | None = None,
) -> list[Task]:
    """Tasks of rows that were read from `source`, their image paths relative to `folder`.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows`.
    """
    tasks: list[Task] = []
    problems: list[str] = []
    for number, row in enumerate(rows):
        if limit is not None and len(tasks) >= limit:
            break
        try:
            tasks.append(_task(row, number, folder, columns or {}, box_frame, source))
        except BAD_ROW as error:
            problem = f"row {number} of {source}: {error}"
            if not skip_bad_rows:
                raise TaskError(f"{problem} (rows count from 0; --skip_bad_rows true goes on without it)") from error
            problems.append(problem)
    if problems:
        print(f"{len(problems)} bad rows skipped, the first: {problems[0]}")
    return tasks


def save_tasks(tasks: list[Task], folder: Path) -> None:
    """Writes `tasks.jsonl` and the images that are not already files below `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "tasks.jsonl").open("w") as file:
        for task in tasks:
            paths = [_image_path(image, folder, f"{task.id}-{index}") for index, image in enumerate(task.images)]
            record = {
                "id": task.id,
                "images": paths,
                "question": task.question,
                "answer": task.answer,
                "kind": task.kind.value,
                "choices": list(task.choices),
                "boxes": [target.box.to_dict() | {"img_idx": target.img_idx} for target in task.boxes],
                "first_view_max_pixels": task.first_view_max_pixels,
                "metadata": dict(task.metadata),
            }
            file.write(json.dumps(record) + "\n")


def _image_path(image: Any, folder: Path, name: str) -> str:
    if isinstance(image, (str, Path)):
        path = Path(image)
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    content = encoded(image)
    path = folder / "images" / f"{name}.{'img' if isinstance(content, bytes) else 'png'}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    return str(path.relative_to(folder))


def _value(row: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> Any:
    """A field of the row under its mapped, perhaps dotted name; None if absent."""
    value: Any = row
    for part in columns.get(name, name).split("."):
        if not isinstance(value, Mapping) or part not in value:
            if name in columns:
                raise TaskError(f"no column {columns[name]!r} for {name}; the row has {sorted(row)}")
            return None
        value = value[part]
    return value


def _task(
    row: Mapping[str, Any], number: int, folder: Path, columns: Mapping[str, str], box_frame: Frame, source: str
) -> Task:
    if not isinstance(row, Mapping):
        raise TaskError(f"it is a {type(row).__name__}, not an object with columns")
    if BROKEN in row:
        raise TaskError(row[BROKEN])
    fields = {name: _value(row, name, columns) for name in COLUMNS}
    images = fields["images"] if fields["images"] is not None else _value(row, "image", columns)
    if images is None:
        images = []
    elif not isinstance(images, (list, tuple)):
        images = [images]
    if not isinstance(fields["question"], str) or not fields["question"].strip():
        raise TaskError(
            f"question is {fields['question']!r}: it must be text; name its column with --columns question=…"
        )
    if len(fields["question"]) > MAX_CHARACTERS:
        raise TaskError(f"question has {len(fields['question'])} characters, the bound is {MAX_CHARACTERS}")
    if fields["answer"] is None:
        raise TaskError("answer is missing: name its column with --columns answer=…")
    if isinstance(fields["choices"], (str, Mapping)):
        raise TaskError(f"choices is {fields['choices']!r}: it must be a list of texts")
    if not isinstance(fields["metadata"] or {}, Mapping):
        raise TaskError(f"metadata is {fields['metadata']!r}: it must be an object")
    most = fields["first_view_max_pixels"]
    if most is not None and (isinstance(most, bool) or not isinstance(most, (int, float)) or not most >= 1):
        raise TaskError(f"first_view_max_pixels is {most!r}: it must be a number of pixels")
    if not isinstance(fields["boxes"] or [], (list, tuple)):
        raise TaskError(f"boxes is {fields['boxes']!r}: it must be a list of boxes")
    choices = tuple(str(choice) for choice in fields["choices"] or ())
    kind = _kind(fields["kind"], fields["answer"], choices)
    if kind is AnswerKind.CHOICE and choices:
        _check_choice(fields["answer"], choices)
    return Task(
        id=str(fields["id"] if fields["id"] is not None else number),
        images=tuple(_image(image, folder) for image in images),
        question=fields["question"].replace("<image>", "").strip(),
        answer=fields["answer"],
        kind=kind,
        choices=choices,
        boxes=tuple(_target(box, box_frame) for box in fields["boxes"] or ()),
        first_view_max_pixels=None if most is None else int(most),
        source=source,
        metadata=fields["metadata"] or {},
    )


def _image(image: Any, folder: Path) -> Any:
    """An image source, with a relative path made absolute and checked to exist."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        path = folder / image
        try:
            is_there = path.exists()
        except OSError as error:
            raise TaskError(f"image {image[:80]!r}… is no path: {error.strerror}") from error
        if not is_there:
            raise TaskError(f"image {path} does not exist: paths are relative to {folder}")
        return str(path)
    if image is None:
        raise TaskError("an image is empty: it must be a path, bytes or a PIL image")
    return image


def _kind(kind: str | None, answer: Any, choices: tuple[str, ...]) -> AnswerKind:
    """The kind named in the row, else the one that the answer's form suggests."""
    if kind:
        known = [known.value for known in AnswerKind]
        if kind not in known:
            raise TaskError(f"kind {kind!r} is unknown: use one of {known}")
        return AnswerKind(kind)
    if choices:
        return AnswerKind.CHOICE
    if isinstance(answer, (list, tuple)):
        return AnswerKind.LIST
    text = str(answer).strip().lower()
    if text in ("yes", "no"):
        return AnswerKind.YES_NO
    try:
        float(text.replace(",", ""))
    except ValueError:
        return AnswerKind.TEXT
    return AnswerKind.NUMBER


def _check_choice(answer: Any, choices: tuple[str, ...]) -> None:
    """Raises TaskError unless the answer is the letter or the text of one of the choices."""
    said = str(answer).strip()
    letters = ascii_uppercase[: len(choices)]
    if said.strip("() .").upper() not in letters and said.lower() not in [choice.strip().lower() for choice in choices]:
        raise TaskError(f"answer {answer!r} is none of the choices {list(choices)}, nor the letter of one")


def _target(box: Any, frame: Frame) -> Target:
    if isinstance(box, Mapping):
        target = Target(Box.from_dict({"frame": frame.value, **box}), int(box.get("img_idx", 0)))
    elif isinstance(box, (list, tuple)) and len(box) == 4:
        target = Target(Box.of(box, frame))
    else:
        count = f"{len(box)} numbers" if isinstance(box, (list, tuple)) else "no numbers in brackets"
        raise TaskError(f"box {box!r} has {count}: boxes is a list of [x1, y1, x2, y2]")
    if target.box.is_empty:
        raise TaskError(f"box {box!r} is empty: it needs x1 below x2 and y1 below y2")
    return target


def tasks_from(name: str, **reading: Any) -> list[Task]:
    """Tasks by name: a function `package.module:name` or `./file.py:name` that returns them, else `load_tasks`."""
    if ":" in name and not Path(name).exists():
        from fovea.plugins import load_object

        tasks = list(load_object(name)())
        limit = reading.get("limit")
        return tasks[:limit] if limit else tasks
    return load_tasks(name, **reading)


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """`["question=problem"]` as `{"question": "problem"}`.

    Raises:
        ValueError: for a pair without `=` or a name that is not ours.
    """
    columns = {}
    for pair in pairs or []:
        name, sign, column = pair.partition("=")
        if not sign or name not in COLUMNS:
            raise ValueError(f"--columns {pair!r}: write our name=your column; ours are {', '.join(COLUMNS)}")
        columns[name] = column
    return columns
