"""The other image of each task, which a probe needs beside the environment's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fovea.data.identity import source_hash
from fovea.tasks import Task


def with_others(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, each with another task's first image in `metadata["other_image"]`: what crops of "other" show.

    Raises:
        ValueError: if all tasks show the same image.
    """
    sources = [task.images[0] for task in tasks if task.images]
    names = [source_hash(source) for source in sources]
    extended_tasks, place = [], 0
    for task in tasks:
        if task.images:
            after = [*range(place + 1, len(names)), *range(place)]
            other = next((sources[index] for index in after if names[index] != names[place]), None)
            if other is None:
                raise ValueError(
                    "all tasks show the same image: for crops of another image, give tasks on at least two"
                )
            task = replace(task, metadata={**task.metadata, "other_image": other})
            place += 1
        extended_tasks.append(task)
    return extended_tasks
