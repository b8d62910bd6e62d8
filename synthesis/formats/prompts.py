"""Prompts of verl's files, which hold no trace, as rows of tasks: DeepEyes and what was made like it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fovea.data.sources import BROKEN
from fovea.images import encoded, write_png
from fovea.placeholders import MARK, PLACEHOLDER
from fovea.tasks import Task
from synthesis.formats.wording import Changes, question_of

DEEPEYES, FILE_NAME = "deepeyes", "prompts.parquet"
"""The format's name, and its file: of traces only the tasks are written."""


def is_prompt(row: Any) -> bool:
    """Returns True if a row is a prompt with a reference for its answer, and without a reply."""
    return isinstance(row, Mapping) and {"prompt", "reward_model"} <= row.keys() and "completion" not in row


def task_row(row: Mapping[str, Any], strip: re.Pattern | None = None) -> dict[str, Any]:
    """The row of a task, which `fovea.data.task_files.to_tasks` reads.

    One whose prompt or reference cannot be found is a row that says so.
    """
    try:
        asked = "\n".join(message["content"] for message in row["prompt"] if message["role"] == "user")
        answer = row["reward_model"]["ground_truth"]
    except (TypeError, KeyError) as error:
        return {BROKEN: f"it is no prompt with reward_model.ground_truth: {error!r}"}
    images = list(row.get("images") or ())
    if len(images) == 1:
        asked = asked.replace(PLACEHOLDER, "", 1)
    extra = row.get("extra_info") or {}
    return {
        "images": images,
        "question": question_of(asked, strip, Changes()),
        "answer": answer,
        "kind": "choice" if _is_letter_of(asked, answer) else None,
        "metadata": {"source": row.get("data_source"), "index": extra.get("index", extra.get("id"))},
    }


def _is_letter_of(asked: str, answer: Any) -> bool:
    """Returns True if a reference is the letter of an option that the prompt lists."""
    if not isinstance(answer, str) or not re.fullmatch("[A-Z]", answer.strip()):
        return False
    letters = set(re.findall(r"^\s*\(?([A-Z])[).:]", asked, re.MULTILINE))
    return {"A", "B", answer.strip()} <= letters


def prompt_row(task: Task) -> dict[str, Any]:
    """A task as a row of DeepEyes' Parquet files, its images as PNG bytes or as their files hold them."""
    images = [encoded(image) for image in task.images]
    question = task.prompt if MARK in task.question else f"{PLACEHOLDER * len(images)}\n{task.prompt}"
    answer = task.answer if isinstance(task.answer, str) else json.dumps(task.answer)
    return {
        "data_source": task.family,
        "prompt": [{"role": "user", "content": question.replace(MARK, PLACEHOLDER)}],
        "images": [{"bytes": image if isinstance(image, bytes) else png(image), "path": None} for image in images],
        "ability": "vl",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"answer": answer, "index": task.id, "question": task.prompt.replace(MARK, ""), "split": "train"},
    }


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file of an image."""
    file = io.BytesIO()
    write_png(image, file)
    return file.getvalue()


def write_prompts(tasks: Iterable[Task], path: Path) -> None:
    """Writes tasks as the Parquet file of prompts that DeepEyes and verl read, a few rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    message, image = pa.struct({"role": text, "content": text}), pa.struct({"bytes": pa.binary(), "path": text})
    columns = {
        "data_source": text, "prompt": pa.list_(message), "images": pa.list_(image), "ability": text, "env_name": text,
        "reward_model": pa.struct({"ground_truth": text, "style": text}),
        "extra_info": pa.struct(dict.fromkeys(("answer", "index", "question", "split"), text)),
    }  # fmt: skip
    with pq.ParquetWriter(path, pa.schema(columns)) as writer:
        for task in tasks:
            writer.write_table(pa.Table.from_pylist([prompt_row(task)], schema=writer.schema))
