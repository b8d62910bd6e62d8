"""Tasks read from the files that people already have, and written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fovea.answers import checked_reference, verify_reference
from fovea.answers.boxes import boxes_in, is_four_numbers
from fovea.boxes import Box, Frame, View
from fovea.data.sources import BROKEN, Row, read_rows
from fovea.images import ImageError, decoded_text, encoded, image_size
from fovea.placeholders import MARK, PLACEHOLDER, escaped, marked, refuse_placeholders, unescaped
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
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    json_columns: Sequence[str] = (),
    skip_bad_rows: bool = False,
    limit: int | None = None,
) -> list[Task]:
    """Tasks from a JSONL or Parquet file, a folder with `tasks.jsonl`, a saved dataset folder, or a hub id.

    `columns` maps our names to those of the file, dotted where they are nested: `{"answer":
    "reward_model.ground_truth"}`. `json_columns` are those of our names whose texts hold JSON, as Arrow files need it
    where rows differ in type. Boxes without a frame are in pixels of the original image; in a task they are in UNIT.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows`.
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
    limit: int | None = None,
) -> list[Task]:
    """Tasks of rows that were read from `source`, their image paths relative to `folder`.

    Raises:
        TaskError: on the first bad row, with its number and reason, unless `skip_bad_rows`.
    """
    tasks: list[Task] = []
    problems: list[str] = []
    row_numbers: dict[str, int] = {}
    for number, row in enumerate(rows):
        if limit is not None and len(tasks) >= limit:
            break
        try:
            task = _task(row, number, folder, columns or {}, json_columns, source)
            if row_numbers.setdefault(task.id, number) != number:
                raise TaskError(f"id {task.id!r} is that of row {row_numbers[task.id]} already: ids tell tasks apart")
            tasks.append(task)
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
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    safe_name = re.sub(r"[^\w.-]", "_", name)
    if safe_name != name:  # "a/b" and "a_b" are two tasks, so their images are two files
        safe_name += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    content = encoded(image)
    path = folder / "images" / f"{safe_name}.{'img' if isinstance(content, bytes) else 'png'}"
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
    row: Mapping[str, Any],
    number: int,
    folder: Path,
    columns: Mapping[str, str],
    json_columns: Sequence[str],
    source: str,
) -> Task:
    if not isinstance(row, Mapping):
        raise TaskError(f"it is a {type(row).__name__}, not an object with columns")
    if BROKEN in row:
        raise TaskError(row[BROKEN])
    fields = {name: _value(row, name, columns) for name in COLUMNS}
    fields |= {name: _from_json(name, fields[name]) for name in json_columns}
    _check_types(fields)
    images = fields["images"] if fields["images"] is not None else _value(row, "image", columns)
    images = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
    max_pixels = fields["first_view_max_pixels"]
    choices = tuple(str(choice) for choice in fields["choices"] or ())
    for column, text in (*(("choice", choice) for choice in choices), ("answer", str(fields["answer"]))):
        refuse_placeholders(text, column)
    choices, fields["answer"] = tuple(map(unescaped, choices)), _each_text(unescaped, fields["answer"])
    task = Task(
        id=str(fields["id"] if fields["id"] is not None else number),
        images=tuple(_image(image, folder) for image in images),
        question=marked(fields["question"], len(images)),
        answer=fields["answer"],
        kind=_kind(fields["kind"], fields["answer"], choices, has_image=bool(images)),
        choices=choices,
        boxes=tuple(map(_target, fields["boxes"] or ())),
        first_view_max_pixels=None if max_pixels is None else int(max_pixels),
        source=source,
        metadata=fields["metadata"] or {},
        columns=_without_images(row, columns),
    )
    return checked(task)


def _without_images(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    image_columns = {"images", "image", columns.get("images", "images").split(".")[0]}
    return {name: value for name, value in row.items() if name not in image_columns}


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raises TaskError for a column that holds something else than it must."""
    if not isinstance(fields["question"], str) or not fields["question"].strip():
        raise TaskError(
            f"question is {fields['question']!r}: it must be text; name its column with --columns question=…"
        )
    if len(fields["question"]) > MAX_CHARACTERS:
        raise TaskError(f"question has {len(fields['question'])} characters, the bound is {MAX_CHARACTERS}")
    if fields["answer"] is None:
        raise TaskError("answer is missing: name its column with --columns answer=…")
    if isinstance(fields["choices"], (str, Mapping)):
        raise TaskError(f"choices is {fields['choices']!r}: it must be a list of texts (or name it in --json_columns)")
    if not isinstance(fields["metadata"] or {}, Mapping):
        raise TaskError(f"metadata is {fields['metadata']!r}: it must be an object")
    max_pixels = fields["first_view_max_pixels"]
    if max_pixels is not None and (
        isinstance(max_pixels, bool) or not isinstance(max_pixels, (int, float)) or not max_pixels >= 1
    ):
        raise TaskError(f"first_view_max_pixels is {max_pixels!r}: it must be a number of pixels")
    if not isinstance(fields["boxes"] or [], (list, tuple)):
        raise TaskError(f"boxes is {fields['boxes']!r}: it must be a list of boxes")


def _from_json(name: str, value: Any) -> Any:
    """What a text of a JSON column says; None and an empty text stay None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise TaskError(f"{name} is {value[:80]!r}, which is no JSON ({error}), though json_columns names it") from None


def checked(task: Task) -> Task:
    """The task with its boxes in UNIT and its reference as its rule reads it. Every task goes through here once.

    Images are opened for boxes in pixels alone, and only as far as their headers.

    Raises:
        TaskError: for boxes or a reference that cannot be used, with the reason.
    """
    boxes = tuple(_in_unit(target, task) for target in task.boxes)
    try:
        if task.kind is AnswerKind.BOX:
            targets = [_in_unit(_target(box), task) for box in _box_list(task.answer)]
            task = replace(task, boxes=boxes, answer=[target.to_dict() for target in targets])
        else:
            task = replace(task, boxes=boxes, answer=checked_reference(task))
        verify_reference(task)
    except TaskError:
        raise
    except ValueError as error:
        raise TaskError(str(error)) from error
    return task


def _box_list(answer: Any) -> list[Any]:
    """The boxes of an answer of kind box: one box, or a list of such; texts are JSON or hold numbers in brackets."""
    if isinstance(answer, str):
        with suppress(ValueError, RecursionError):
            return _box_list(json.loads(answer))
        boxes = boxes_in(answer)
        if not boxes:
            raise TaskError(f"answer {answer!r} holds no box: write [x1, y1, x2, y2]")
        return [{"coordinates": numbers, "img_idx": image or 0} for numbers, image in boxes]
    if isinstance(answer, Mapping) or is_four_numbers(answer):
        return [answer]
    if not isinstance(answer, (list, tuple)) or not answer:
        raise TaskError(f"answer {answer!r} is no box: write [x1, y1, x2, y2], or a list of such")
    return list(answer)


OUTSIDE = 0.01
"""How far a box may reach beyond its image, as a share of its sides: what rounding does. It is clipped."""


def _in_unit(target: Target, task: Task) -> Target:
    """A target in UNIT, by the size of its image, which is EXIF-rotated.

    Raises:
        TaskError: for an image that is not there, a box outside of it, or one in pixels of an unknown view.
    """
    box, index = target.box, target.img_idx
    if not 0 <= index < max(1, len(task.images)):
        raise TaskError(
            f"img_idx {index} of box {list(box.coordinates)}: the row has {len(task.images)} images, from 0"
        )
    if box.frame is Frame.INPUT:
        raise TaskError(
            f"box {list(box.coordinates)} is in pixels of a model's input, whose size no file knows: write it in "
            "pixels of the original, or in frame unit or per_mille"
        )
    size = (1, 1)
    if box.frame is Frame.ORIGINAL:
        if not task.images:
            raise TaskError(f"box {list(box.coordinates)} is in pixels, but the row has no image")
        size = image_size(task.images[index])
    view = View(size, size)
    unit_box = box.to(Frame.UNIT, view)
    if min(unit_box.coordinates) < -OUTSIDE or max(unit_box.coordinates) > 1 + OUTSIDE:
        extent = f"of {size[0]}x{size[1]} pixels" if box.frame is Frame.ORIGINAL else f"in frame {box.frame.value}"
        raise TaskError(f"box {list(box.coordinates)} lies outside image {index} {extent}: is it [x1, y1, x2, y2]?")
    clipped_box = unit_box.clipped(View((1, 1), (1, 1)))
    if clipped_box.is_empty:
        raise TaskError(f"box {list(box.coordinates)} lies outside image {index}: nothing of it is left inside")
    return Target(clipped_box, index)


def _image(image: Any, folder: Path) -> Any:
    """An image source, with a relative path made absolute and checked to exist."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and not image.strip():
        raise TaskError("an image is an empty text: it must be a path, a data URI, base64, bytes or a PIL image")
    if isinstance(image, str) and not _is_file(folder, image) and (content := decoded_text(image)) is not None:
        try:
            image_size(content)
        except ImageError as error:
            raise TaskError(f"image {image[:40]!r}… is neither a path nor an image in base64 ({error})") from error
        return content
    if isinstance(image, str):
        path = folder / image
        try:
            is_there = path.exists()
        except OSError as error:
            raise TaskError(f"image {image[:80]!r}… is no path: {error.strerror}") from error
        if not is_there:
            raise TaskError(f"image {path} does not exist: paths are relative to {folder}")
        if path.is_dir():
            raise TaskError(f"image {path} is a folder: name a file in it")
        return str(path)
    if image is None:
        raise TaskError("an image is empty: it must be a path, bytes or a PIL image")
    return image


def _is_file(folder: Path, name: str) -> bool:
    with suppress(OSError, ValueError):
        return (folder / name).is_file()
    return False


def _kind(kind: str | None, answer: Any, choices: tuple[str, ...], *, has_image: bool) -> AnswerKind:
    """The kind named in the row, else the one that the answer's form suggests (docs/data.md)."""
    if kind:
        kinds = [member.value for member in AnswerKind]
        if kind not in kinds:
            raise TaskError(f"kind {kind!r} is unknown: use one of {kinds}")
        return AnswerKind(kind)
    if choices:
        return AnswerKind.CHOICE
    if isinstance(answer, bool):
        return AnswerKind.YES_NO
    if isinstance(answer, Mapping) or (has_image and _looks_like_boxes(answer)):
        return AnswerKind.BOX
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


def _looks_like_boxes(answer: Any) -> bool:
    """Whether an answer is four numbers, or a list of nothing but boxes."""
    if isinstance(answer, (list, tuple)) and answer and not is_four_numbers(answer):
        return all(isinstance(item, Mapping) or is_four_numbers(item) for item in answer)
    return is_four_numbers(answer)


BOX_FORM = '[x1, y1, x2, y2] on image 0, or {"bbox_2d": [x1, y1, x2, y2], "img_idx": 1, "frame": "original"}'


def _target(box: Any) -> Target:
    """A box as files write it; without a frame in pixels of the original, without img_idx on image 0."""
    fields = dict(box) if isinstance(box, Mapping) else {"coordinates": box}
    fields = {name: value for name, value in fields.items() if value is not None}  # Arrow fills what a row leaves out
    numbers = fields.pop("bbox_2d", None) or fields.pop("coordinates", None)
    index, frame, _ = fields.pop("img_idx", 0), fields.pop("frame", Frame.ORIGINAL), fields.pop("label", None)
    if fields or not isinstance(numbers, (list, tuple)):
        raise TaskError(f"box {box!r} is in no known form: write {BOX_FORM}")
    if not is_four_numbers(numbers):
        raise TaskError(f"box {box!r} has {len(numbers)} entries, not four finite numbers: write {BOX_FORM}")
    if isinstance(index, bool) or not isinstance(index, int):
        raise TaskError(f"img_idx of box {box!r} must be a whole number: write {BOX_FORM}")
    if frame not in list(Frame):
        raise TaskError(f"frame {frame!r} of box {box!r} is unknown: use one of {[member.value for member in Frame]}")
    target = Target(Box.of(numbers, Frame(frame)), index)
    if target.box.is_empty:
        raise TaskError(f"box {box!r} is empty: it needs x1 below x2 and y1 below y2")
    return target


def tasks_from(name: str, **options: Any) -> list[Task]:
    """Tasks by name: a function `package.module:name` or `./file.py:name` that returns them, else `load_tasks`."""
    if ":" in name and not Path(name).exists():
        from fovea.plugins import load_object

        tasks, limit = list(load_object(name)()), options.get("limit")
        repeated_ids = [id for id, count in Counter(task.id for task in tasks).items() if count > 1]
        if repeated_ids:
            raise TaskError(f"{name} gives {repeated_ids[0]!r} as the id of several tasks: ids tell tasks apart")
        return [checked(task) for task in (tasks[:limit] if limit else tasks)]
    return load_tasks(name, **options)


def known_columns(names: Sequence[str] | None) -> list[str]:
    """The names themselves.

    Raises:
        ValueError: for one that is no column of ours.
    """
    for name in names or ():
        if name not in COLUMNS:
            raise ValueError(f"--json_columns {name!r} is no column of ours: {', '.join(COLUMNS)}")
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
            raise ValueError(f"--columns {pair!r}: write our name=your column; ours are {', '.join(COLUMNS)}")
        columns[name] = column
    return columns
