"""Is a file of tasks what you mean? `fovea data tasks FILE`.

Loads a file as training and evaluation do, decodes each image, and counts what it found: rows by kind, images, boxes.
All rows that are no tasks are named with the reason; the exit status is 1 if there is any. Look at the kinds: one that
is guessed wrongly (a list taken for a text) scores right answers as wrong.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from fovea.answers import readable
from fovea.answers.text import as_list
from fovea.arguments import TaskArguments
from fovea.config import parse
from fovea.data.columns import TaskError
from fovea.images import ImageError, open_image
from fovea.placeholders import MARK
from fovea.statistics import best_constant
from fovea.tasks import AnswerKind, Task
from synthesis.arguments import with_names


@dataclass(kw_only=True)
class TaskCheckArguments(TaskArguments):
    """The tasks, and the output of the check."""

    dataset_name: str = field(
        metadata={"help": "Tasks: JSONL, Parquet or CSV file, dataset folder, hub id, or package.module:function"}
    )
    max_problems: int = field(default=20, metadata={"help": "Problems that are shown."})


_MEASURED = re.compile(r"\s*[-+−]?\d[\d.,]*\s?[^\W\d_°%/]{1,6}\s*")
"""A number and a short word."""


def broken_images(tasks: Iterable[Task]) -> list[str]:
    """Problems of images that cannot be shown, in words."""
    problems = []
    for task in tasks:
        for number, image in enumerate(task.images):
            try:
                open_image(image)
            except ImageError as error:
                problems.append(f"task {task.id}, image {number}: {error}")
    return problems


def table(tasks: Sequence[Task]) -> str:
    """Rows by kind, with the first of each."""
    by_kind: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_kind[task.kind.value].append(task)
    lines = ["| kind | rows | with boxes | best constant answer | the first question | its answer |", "|---" * 6 + "|"]
    for kind, some in sorted(by_kind.items(), key=lambda pair: -len(pair[1])):
        first, boxed = some[0], sum(bool(task.boxes) for task in some)
        question = " ".join(first.question.replace(MARK, "").split())[:60].replace("|", "\\|")
        answer = readable(first)[:40].replace("|", "\\|")
        constant = best_constant([(kind, readable(task)) for task in some])
        lines.append(f"| {kind} | {len(some)} | {boxed} | {constant:.3f} | {question} | {answer} |")
    images = Counter(len(task.images) for task in tasks)
    lines.append(
        "\nimages a task: " + ", ".join(f"{number} ({count} tasks)" for number, count in sorted(images.items()))
    )
    return "\n".join(lines)


def main() -> None:
    sys.argv[1:] = with_names(sys.argv[1:], "--dataset_name")
    (arguments,) = parse((TaskCheckArguments,), description=__doc__)
    problems: list[str] = []
    try:
        tasks = arguments.read_tasks(arguments.dataset_name, limit=arguments.max_tasks, problems=problems)
    except (FileNotFoundError, TaskError, ValueError) as error:
        raise SystemExit(str(error)) from error
    problems += broken_images(tqdm(tasks, desc="images"))
    if tasks:
        print(table(tasks))
    print(f"\n{len(tasks)} tasks, {len(problems)} problems")
    print("\n".join(f"  {problem[:300]}" for problem in problems[: arguments.max_problems]))
    if (left := len(problems) - arguments.max_problems) > 0:
        print(f"  and {left} more (--max_problems)")
    texts = [text for one in tasks if one.kind is AnswerKind.TEXT for text in as_list(one.answer)]
    if measured := list(filter(_MEASURED.fullmatch, texts)):
        print(
            f"note: {len(measured)} answers are a number with a unit, such as {measured[0]!r}, and are compared as "
            "texts. If the number alone is right too, write it alone"
        )
    sys.exit(1 if problems or not tasks else 0)


if __name__ == "__main__":
    main()
