"""Prompts of verl's files, which hold no trace, as rows of tasks: DeepEyes and what was made like it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fovea.data.sources import BROKEN
from fovea.placeholders import PLACEHOLDER
from synthesis.formats.wording import Changes, question_of


def is_prompt(row: Any) -> bool:
    """Whether a row is a prompt with a reference for its answer, without a reply."""
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
        "metadata": {"source": row.get("data_source"), "index": extra.get("index", extra.get("id"))},
    }
