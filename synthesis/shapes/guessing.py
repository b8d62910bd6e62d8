"""What guessing is worth on albums."""

from __future__ import annotations

from collections.abc import Sequence

from fovea.statistics import best_constant
from fovea.tasks import Task


def balance(tasks: Sequence[Task]) -> str:
    """Accuracy of the best constant answer of each family, and of the best fixed position for find and odd, by size."""
    answers = [(f"{task.family}, {task.metadata['num_images']} images", str(task.answer)) for task in tasks]
    lines = [f"best constant answer of each family and size: {best_constant(answers):.3f} (n={len(tasks)})"]
    for family in sorted({task.family for task in tasks}):
        of_family = [(task.family, str(task.answer)) for task in tasks if task.family == family]
        lines.append(f"  {family}: {best_constant(of_family):.3f} (n={len(of_family)})")
    focused = [task for task in tasks if task.metadata["foci"]]
    positions = [(str(task.metadata["num_images"]), str(task.metadata["foci"][0][0])) for task in focused]
    lines.append(f"best fixed position of the first focus: {best_constant(positions):.3f} (n={len(positions)})")
    return "\n".join(lines)
